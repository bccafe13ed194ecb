"""What a profile is, and its files.

- `file.py` Profile files: strict reading with one clear line per error, and writing with stable bytes.
- `inline.py` A profile written inside a workload file: whole step times in milliseconds, taken as they are.
- `profile.py` A profile: measured step times of one GPU + model + engine, with the origin of every number.
- `tables.py` Tables of measured times, and how they are read between and beyond their points.
"""
