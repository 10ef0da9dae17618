"""Perplexity of what is on disk, and the matrix R of a lineage."""
