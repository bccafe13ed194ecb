"""What it means: metrics, statistics, comparison, tuning, sweeps, validation.

- `metrics.py` From timestamps to numbers: one flat record per run, with the keys of vLLM's `bench serve`.
- `records.py` The flat record of a variant, in summary.json and sweeps alike: what was run, its cost, what came out.
- `workers.py` Where simulations run: in this process, in a pool of spawned processes, or on a Dask cluster.
"""
