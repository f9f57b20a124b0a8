"""Data as users bring them, in whichever form."""
