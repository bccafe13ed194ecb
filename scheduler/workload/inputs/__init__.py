"""What people have on disk: what a file is, and what it may be used for.

- `door.py` The one door for files from outside: told by its contents what a file is, and used in the role it can fill.
- `formats.py` The table of formats: what each is called, what makes such files, how it is recognised and read.
- `found.py` What a file gave: its format, what was read, what was left out and why, what it may be used for.
- `head.py` The beginning of a file, enough to tell what it is; JSON in lines, as one document, or several.
- `measured.py` Measured runs: what a real server's requests saw, to hold a simulation against.
- `runs.py` Which run of a file with several: the last, unless the file is named with `#` and a number.
"""
