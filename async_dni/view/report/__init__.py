"""A run, or several, as one page of HTML with charts that needs nothing else, and as pictures and tables."""
