"""What a job and its lineage have measured: evaluations, matrices, sensitivities, and their export."""
