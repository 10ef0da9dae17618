"""The engine's process: one job or plan, isolated, told by standard input, heard by a pipe."""
