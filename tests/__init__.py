"""The tests; a package so that `tests.tiny` and other makers can be imported by name."""
