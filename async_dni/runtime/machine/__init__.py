"""What the machine gives and asks: devices and cores, signals, the environment of other processes, a parent's death."""
