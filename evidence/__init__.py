"""What proves the pages and builds the shipped data; no part of the wheel.

- `gallery.py` Redraw docs/gallery and docs/gallery.md: every picture from the command that stands beside it.
- `tuning.py` Write the table of docs/tuning.md: the tuner on the shipped workloads, and on request traces where given.
"""
