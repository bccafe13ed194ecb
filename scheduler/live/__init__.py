"""The user's own engine, started as a child process, driven over a grid and over traffic, and recorded.

- `calibration.py` One engine after the other: its list, without graphs, eager, and lists to check; resumed after a kill.
- `child.py` The child process: `python -m scheduler.live.child SPEC.json` starts vLLM and drives it.
- `engine_process.py` Starts the child that runs an engine, follows what it says, and ends it: one at a time on the GPU.
- `graph_lists.py` Inside vLLM's worker: which of its captured graphs a running engine may use, changed between turns.
- `pack.py` From what the recorder and the child left to a recorded run: `NAME.json` and its two tables.
- `work.py` What an engine is asked to do to be calibrated, from its own limits: cells, prompts, mixed steps, traffic.
"""
