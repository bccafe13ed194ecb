"""Measuring step times on this machine's device and making a profile of them.

- `bench.py` What a calibration measures on: decoder, KV slab, recordings, and a launch for every cell.
- `calibrate.py` Measures step times on this machine's device and turns them into a profile.
- `cell_check.py` Is the faster mode the one the profile says? Fresh random steps, timed in both modes, against it.
- `cells.py` Which steps a calibration measures: batch × context × mode, with row lengths as traffic has them.
- `grid.py` The raw measurements of a calibration: cells, samples, and a file from which an interrupted run goes on.
- `profile.py` From a calibration's grid to a profile of the catalog, with the origin of every number.
"""
