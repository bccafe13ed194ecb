"""What a step takes: a cost model, real execution, or a step log.

- `execution.py` Which executor a run uses, and how one is opened per variant: real execution, or a step log.
- `step_log.py` The step log: what every step was and how long it took, so that an executed run repeats byte for byte.
"""
