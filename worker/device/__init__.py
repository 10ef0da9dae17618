"""The GPU of a worker, seen from outside of any engine: whether it works, and whose it is."""
