"""What a step takes by a profile.

- `by_profile.py` The one place that knows which cost model belongs to which kind of profile.
- `cost_model.py` What every cost model answers: the duration of each step, in whole nanoseconds of the virtual clock.
- `curve_model.py` Step times by a profile of curves: host + max(issue, GPU), or max(host + issue, GPU) with overlap.
- `inline_model.py` Step times written into a workload file: whole steps, taken as they are.
- `prefill_cost.py` GPU time of steps that compute prompt tokens, alone or mixed with decodes.
- `step_lines.py` A decode step's time for one size, as a piecewise linear function of the KV tokens, in nanoseconds.
"""
