"""Jobs that continue one another: their stages, what a continuation may ask for, and what it must know."""
