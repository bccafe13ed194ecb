"""Predictions held against executed loops and published measurements.

- `calibrations.py` What `calibrate --engine vllm` foretold of its own traffics, and how its host drifted meanwhile.
- `decode_rows.py` Profiles against decode steps measured elsewhere: `python -m evidence.fidelity.decode_rows STEPS.csv`.
- `executed_loops.py` Predicted against executed decode loops: `python -m evidence.fidelity.executed_loops FACTS.jsonl`.
- `graph_lists.py` Lists of graphs by turns in one engine: foretold, then held against what was measured.
- `h200_loops.py` Predicted against executed loops of the H200: `python -m evidence.fidelity.h200_loops`.
- `held_back.py` Lists that were held back until the importers were done: `python -m evidence.fidelity.held_back`.
- `vllm_drafting.py` A vLLM that drafted, against what was foretold: `python -m evidence.fidelity.vllm_drafting`.
- `vllm_h100.py` Recorded vLLM runs against profiles made from some of them: `python -m evidence.fidelity.vllm_h100`.
"""
