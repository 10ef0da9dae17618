"""Rows of files that may be anything: a program of its own, which the intake runs in a child process.

Hugging Face `datasets` finds a split's files and reads them, from this machine's disk alone: never a script, an
address or a reference to a hub. What bounds it is here and in the child's limits.
"""
