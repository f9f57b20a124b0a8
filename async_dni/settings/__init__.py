"""The settings of a training, a group a file; `config.py` holds them together and against each other."""
