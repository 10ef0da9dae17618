"""A model's graph, its tensors on disk, and running its blocks one at a time."""
