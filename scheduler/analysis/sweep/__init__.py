"""Many points of one workload, and the highest rate that meets the SLO.

- `axes.py` What a sweep varies: `--over KEY=V1,V2,…` or `KEY=START:STOP:STEP`, and every combination of them.
- `max_rate.py` The highest arrival rate that meets the SLO, by a bracketed search on the logarithm of the rate.
- `over_replications.py` From flat records of single replications to one row per point and variant, with intervals.
- `store.py` What a sweep has finished: one small file per task, so a kill at any moment loses only what was running.
- `sweep.py` Many simulations, kept one by one: each lands in a file of its own, and a repeated sweep skips it.
- `task.py` One simulation of a sweep as a small picklable task: what defines it, its key, and its flat record.
"""
