"""Which sizes to capture: the search, its checks on fresh requests, and the advice.

- `answer.py` What a tuning found, in the closed loop or for a log: all that tune.json holds, by the same names.
- `assemble.py` From what the search and its checks found to the answer.
- `budgets.py` What a pool may cost (graphs, GPU memory, seconds of capture) and which sizes it must hold.
- `checks.py` Is the tuned pool really better: on requests the search never met, over all loads.
- `choose.py` The best capture sizes for a histogram of batch sizes: exact, by dynamic programming.
- `choose_within_budget.py` The best capture sizes within a budget that sizes draw on unequally, such as capture seconds.
- `closed_loop.py` The tuner in the closed loop: the pool decides how large batches grow, the batches which pool is best.
- `draft_study.py` Draft tokens and capture list together, in the closed loop: which to take, at which load to stop.
- `load_runs.py` One variant on one sample at one load, at both ends of a host range: what came out, and which steps.
- `load_study.py` A comparison over loads: its variants from half to twice the rate, and whether fewer graphs would do there.
- `log_evidence.py` What a log says where the profile or a default would be taken: KV lengths, step times, graphs not used.
- `logged_choice.py` From a server's log and a profile to the best sizes; what the log does not say is assumed and noted.
- `neighbours.py` Pools one step away from a pool: a size added, removed, or exchanged for another, cheapest first.
- `objectives.py` What a tuned pool is the best at: one number of a run's summary, lower or higher the better.
- `open_loop.py` The best graphs for batches that a server has already logged: open loop, the batches taken as given.
- `padding.py` What a list of sizes does to batches that nobody has met: how far padding may go, and how far it goes.
- `pool_runs.py` Pools run on the same requests over the loads: what came out, which steps; side by side if need be.
- `pool_search.py` The search for the best pool when pool and traffic feed back on each other.
- `samples.py` Which requests the tuner searches on, and which it confirms on: never the same ones.
- `step_loads.py` The steps of simulated runs as loads to choose sizes for: how often each size came, what it costs where.
- `token_budgets.py` What another max_num_batched_tokens would do, with the own list and with the tuned one.
- `verdict.py` What the tuner advises, and why.
"""
