"""What only a GPU can answer.

- `graph_lists.py` Inside vLLM's worker: lists of graphs by turns, and the recorder's hooks in and out by turns.
- `list_turns.py` Several lists of graphs by turns in one vLLM engine: python -m evidence.gpu.list_turns PLAN.json OUT.
- `loops.py` Closed-loop steps of the GPU run: predicted against executed, the pool's ceiling, and what pools cost.
- `questions.py` Ten questions about CUDA graphs that only a GPU answers; each is asked alone and may fail alone.
- `record_cost.py` What the recorder costs a step: one vLLM engine, its hooks in and out by turns; the hooks alone.
- `run_all.py` Everything a GPU has to answer, in one or two calls: run as `python3 -m evidence.gpu.run_all --out DIR`.
"""
