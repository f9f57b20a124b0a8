"""Several machines: processes that torchrun has started, one a host, whose workers' queues are joined by links."""
