"""A run, step by step: prepare, plan, wire, train, record. Each step takes the values of those before it."""
