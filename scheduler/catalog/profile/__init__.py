"""What a profile is, and its files.

- `curves.py` A profile of curves: step times by mode, launching apart from the GPU's work.
- `engine.py` A profile of version 2: what a step costs the host and what it costs the GPU, told apart.
- `file.py` Profile files: strict reading with one clear line per error, and writing with stable bytes.
- `inline.py` A profile written inside a workload file: whole step times in milliseconds, taken as they are.
- `measured.py` What every profile file holds, whichever way it tells step times: what was measured, and how sure it is.
- `profile.py` What everyone may ask of a profile, whatever its kind, and the values that the answers are made of.
- `tables.py` Tables of measured times, and how they are read between and beyond their points.
"""
