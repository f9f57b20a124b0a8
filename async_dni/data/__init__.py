"""Samples, data sets, and the seeded stream of batches."""
