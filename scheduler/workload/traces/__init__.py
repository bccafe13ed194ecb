"""Recorded traffic in many formats, read exactly.

- `csv.py` Traces as comma-separated values below a header.
- `formats.py` The trace formats: how each names its columns, and how a header or first line tells which it is.
- `jsonl.py` Traces as JSON Lines: one object per line.
- `lines.py` A file as numbered lines of text, or as one text: plain or gzipped, bounded in size and line length.
- `read.py` Recorded traffic: a trace file becomes arrivals and lengths, and says what was done to it.
- `rows.py` The rows of a trace as numbers, with every bad cell reported by its line.
- `values.py` The cells of a trace, read exactly: times as whole nanoseconds (never through a float), token counts.
"""
