"""What workers write for a person: the form of its lines, and how they are read."""
