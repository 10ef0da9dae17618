"""Which matrix loses how many weights."""
