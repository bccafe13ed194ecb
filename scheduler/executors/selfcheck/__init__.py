"""The guided demonstration and health check of graph replay.

- `decoder.py` Greedy decoding by direct step plans: the same requests eager and replayed, for checks.
- `launch_model.py` What a graph saves, computed: kernels are launched asynchronously, so only overhead that shows costs time.
- `limits.py` The rules of recording a step, each broken once: what really happens, and what in fact works.
- `mlp.py` The measuring part of the selfcheck: eager and replay, changed inputs, padding, soak, two widths.
- `report.py` What the selfcheck runs with and what it reports; no torch is needed here.
- `selfcheck.py` The guided demonstration and health check: run, capture, replay, compare, break every rule once, measure.
- `static_mlp.py` A small MLP with static buffers: the simplest step that can be recorded.
"""
