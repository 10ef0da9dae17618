"""The one description of a job, for the API, the engine, the command line and the benchmarks."""
