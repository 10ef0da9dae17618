"""What a stage leaves on disk for the next one."""
