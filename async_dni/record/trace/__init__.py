"""Traces of some steps: what each worker did when, and a picture of it that other programs open."""
