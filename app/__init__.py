"""The service: everything but torch."""
