"""Work of the CPU queue: models and hub datasets are checked and brought into the store (`runner.run`).

Nothing here imports torch; the one conversion that needs it runs in a child process.
"""
