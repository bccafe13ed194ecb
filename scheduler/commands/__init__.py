"""One file per command: what `run.py COMMAND` does, from checked options to printed words.

- `audit.py` `run.py audit`: which graph every batch really takes, by the engine's own rules; no profile is needed.
- `calibrate.py` `run.py calibrate`: measure step times, write a profile, and compare it with a run executed for real.
- `calibrate_engine.py` `run.py calibrate --engine vllm`: your own engine over a grid and traffic, its profile, and a check.
- `inspect_file.py` `run.py inspect FILE`: what a file is, what was read and left out, and what it may be used for.
- `lists.py` `run.py profile list` and `run.py preset list`: every name that a workload file may use, in a line each.
- `options.py` What every command accepts: a dataclass per command, the options that several share inherited.
- `plot.py` `run.py plot DIR [DIR …]`: redraw a saved run, or overlay several; nothing is simulated again.
- `profile.py` `run.py profile show` and `run.py profile import FORMAT`: look at profiles, build them.
- `run.py` `run.py WORKLOAD`: the workload's pool, further pools and pure eager on the same requests.
- `selfcheck.py` `run.py selfcheck`: the guided demonstration and health check of graph replay on this machine.
- `sweep.py` `run.py sweep`: many points of one workload in parallel, and the highest rate that meets the SLO.
- `tune.py` `run.py tune`: the best graphs for a workload (closed loop) or for a server's log (open loop).
- `tune_drafts.py` `run.py tune` of a server that drafts: draft tokens and list together, and what verifying costs.
- `validate.py` `run.py validate`: a measured server or a recorded engine beside the simulation of the same requests.
"""
