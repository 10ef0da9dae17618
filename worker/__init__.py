"""The workers: what takes work from the queues, and the pruning library itself."""
