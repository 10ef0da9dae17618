"""Measurements on a real model; each module is a program: python -m benchmarks.<name> --help."""
