"""One stage's arithmetic, which knows no process and no queue: stage, methods, synthesizers, precision, divergence."""
