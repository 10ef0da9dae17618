"""What a job says of itself. The pipe, tables, answers and exports go by the fields of these records."""
