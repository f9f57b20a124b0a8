"""What a run leaves: its directory, checkpoints, telemetry, evaluations."""
