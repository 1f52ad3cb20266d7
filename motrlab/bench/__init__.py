"""Checks and timings for a machine with an accelerator, in pieces: what is done is not done again."""
