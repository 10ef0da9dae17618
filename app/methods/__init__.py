"""What the service can compute."""
