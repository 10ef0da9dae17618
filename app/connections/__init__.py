"""What one connection may cost: heads, answers and silence have their limits, and so has the number of them.

uvicorn's protocol on httptools sets none to heads, to slow callers and to what waits in a pipeline.
"""
