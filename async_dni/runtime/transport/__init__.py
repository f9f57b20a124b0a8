"""What carries tensors between processes: queues in shared memory, doorbells, files without a name."""
