"""How often one key or one address may call: refused before any work is done for the call."""
