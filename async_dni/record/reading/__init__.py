"""What is in a run directory, whole or not: read back for whoever looks at it."""
