"""The workers that run jobs: what each is, whether it is there, and which jobs it holds."""
