"""What one project may have at once: counted in the transaction that would make more, and refused there."""
