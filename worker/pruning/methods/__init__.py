"""Solvers, and the table that says which method does what."""
