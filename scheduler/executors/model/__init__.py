"""What a step takes by a profile.

- `cost_model.py` The cost model: what a step takes by a profile, in whole nanoseconds of the virtual clock.
- `prefill_cost.py` GPU time of steps that compute prompt tokens, alone or mixed with decodes.
- `step_lines.py` A decode step's time for one size, as a piecewise linear function of the KV tokens, in nanoseconds.
"""
