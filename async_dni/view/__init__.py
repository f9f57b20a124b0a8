"""What a person sees of a run. Reads records and evaluations, never workers."""
