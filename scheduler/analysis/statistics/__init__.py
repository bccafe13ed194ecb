"""How sure a number is: arrays in, certainty out.

- `block_bootstrap.py` How sure a paired difference is within one trace: a bootstrap over blocks of time.
- `intervals.py` How sure a number is: t intervals over replications, paired differences, verdicts, weighted percentiles.
- `steady_state.py` Is there a steady state to speak of: warm-up (MSER-5), offered against delivered rate, overload.
"""
