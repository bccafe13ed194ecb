"""One file per command: what `run.py COMMAND` does, from checked options to printed words."""
