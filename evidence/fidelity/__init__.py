"""Predictions held against executed loops and published measurements.

- `decode_rows.py` Profiles against decode steps measured elsewhere: `python -m evidence.fidelity.decode_rows STEPS.csv`.
- `executed_loops.py` Predicted against executed decode loops: `python -m evidence.fidelity.executed_loops FACTS.jsonl`.
- `h200_loops.py` Predicted against executed loops of the H200: `python -m evidence.fidelity.h200_loops`.
- `vllm_h100.py` Recorded vLLM runs against profiles made from some of them: `python -m evidence.fidelity.vllm_h100`.
"""
