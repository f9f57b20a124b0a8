"""How the weights of a stage change: rates, accumulation, averages, scales. `updater.py` makes the steps."""
