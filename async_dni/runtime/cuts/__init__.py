"""Cuts: consistent states of the whole network, made by each stage on its own, and put together."""
