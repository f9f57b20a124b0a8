"""The commands that look at runs: `python -m async_dni summary RUN_DIR`, and so on; one file each."""
