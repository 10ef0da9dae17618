"""Which files are a model, and what its config.json may say: the rules that the intake and the engine share.

Nothing here imports either of them, nor torch.
"""
