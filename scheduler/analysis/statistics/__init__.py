"""How sure a number is: arrays in, certainty out.

- `block_bootstrap.py` How sure a paired difference is within one run: a bootstrap over blocks of time.
- `difference.py` What a paired difference shows: candidate − baseline on the same requests, its interval, the verdict.
- `intervals.py` How sure a number is: t intervals over replications, weighted percentiles, the t quantile.
- `steady_state.py` Is there a steady state to speak of: warm-up (MSER-5), offered against delivered rate, overload.
"""
