"""What a step takes by a profile.

- `by_profile.py` The one place that knows which cost model belongs to which kind of profile.
- `cost_model.py` What every cost model answers: the duration of each step, in whole nanoseconds of the virtual clock.
- `curve_model.py` Step times by a profile of curves: host + max(issue, GPU), or max(host + issue, GPU) with overlap.
- `draft_cost.py` What drafting takes after each step: passes of the drafter on the GPU, and launching them.
- `engine_model.py` The cost model of a version 2 profile: what a step asks of host and GPU, in whole nanoseconds.
- `host_noise.py` How fast the host is at an instant of virtual time: drawn once, the same for every variant of a run.
- `inline_model.py` Step times written into a workload file: whole steps, taken as they are.
- `prefill_cost.py` GPU time of steps that compute prompt tokens, alone or mixed with decodes.
- `step_lines.py` A decode step's time for one size, as a piecewise linear function of the KV tokens, in nanoseconds.
"""

from scheduler import compiled as compiled  # before any module of this room: compiled, or by its source
