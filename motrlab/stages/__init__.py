"""The stages of a run: each function does one stage's work, writes its record, and returns it.

Notebooks and the command line call these; the rooms they call know nothing of runs.
"""
