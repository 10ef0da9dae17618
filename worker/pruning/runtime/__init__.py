"""What the mathematics runs on: precision, memory, activations, progress."""
