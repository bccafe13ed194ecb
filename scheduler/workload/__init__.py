"""What arrives: workload files, arrivals, lengths, traces.

- `arrivals.py` When requests arrive: renewal processes of unit rate, mapped through the inverse of the integrated rate.
- `arrivals_schema.py` When requests arrive: the arrival processes of a workload file.
- `draw.py` From a workload to its requests: every random number of a run is drawn here, before the loop.
- `lengths.py` How long prompts and answers are: vectorised draws of whole token counts ≥ 1.
- `lengths_schema.py` How many tokens prompts and answers have: the length distributions of a workload file.
- `requests.py` The requests that arrive, as arrays: drawn or read once, before the loop, so every pool meets the same.
- `schema.py` The workload file as typed, frozen models: every key, its default, and what must hold between keys.
"""
