"""Tasks of the lm-evaluation-harness, done by whole models. The harness is imported only where a job has some."""
