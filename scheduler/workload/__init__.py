"""What arrives: workload files, arrivals, lengths, traces.

- `arrivals.py` When requests arrive: every arrival process of a workload file in one class, its checks and its draws.
- `conversations.py` System prompts that requests share, and conversations whose turns append: `prefixes` of a workload.
- `draw.py` From a workload to its requests: every random number of a run is drawn here, before the loop.
- `lengths.py` How long prompts and answers are: every length distribution in one class, its checks and its draws.
- `prefixes.py` Which prompts begin with the same tokens, as names of their blocks: recorded in a trace, or drawn.
- `rates.py` An arrival rate over time: stages that repeat, their integral and its inverse.
- `requests.py` The requests that arrive, as arrays: drawn or read once, before the loop, so every pool meets the same.
- `schema.py` The workload file as typed, frozen models: every key, its default, and what must hold between keys.
- `speculation.py` Speculative decoding as a workload file says it: who drafts, how many tokens, and how many are accepted.
"""
