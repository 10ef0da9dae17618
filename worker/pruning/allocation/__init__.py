"""Where the sparsity goes: rates of the matrices, from calibration text alone."""
