"""What an evaluation finds in outputs and targets that come a batch at a time: the same as of all of them at once."""
