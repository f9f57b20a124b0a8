"""Who runs where, and waits for whom: workers, their supervisor, and the same stages in one process."""
