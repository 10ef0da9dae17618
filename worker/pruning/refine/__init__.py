"""Tuning the weights that stay of all matrices together, on fixed masks."""
