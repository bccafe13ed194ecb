"""Graph pools against eager on the same requests: runs side by side, and what differs.

- `compare.py` Eager against graph pools on the same requests, replication by replication.
- `differences.py` How much a variant changes against another on the same requests, and how sure that is.
- `drafting.py` What drafting changes over the loads, by draft tokens and capture list, and where it stops paying.
- `evidence.py` Whether a comparison's requests and profile can say that fewer graphs would do, and what is missing.
- `kept_runs.py` Runs while their comparison is made: small ones in memory, those of a large comparison in files.
- `loads.py` A comparison's variants from half to twice its load, and whether fewer graphs would hold there.
- `measured_on.py` Whose step times a run rests on: a flag is for the engine, release, GPU and model that they are of.
- `pools.py` Which graph pools a run compares: the workload's own, and those named on the command line.
- `steadiness.py` Whether a mean means anything: overload, and a warm-up that was cut too short.
- `step_times.py` What a decode step takes by the profile: the curves to look at, and the time each graph saved.
"""
