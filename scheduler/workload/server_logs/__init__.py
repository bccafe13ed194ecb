"""What serving engines print and export: batches, start-up facts, measured requests.

- `batches.py` Server logs as histograms of decode and mixed steps: every engine's lines read side by side.
- `engine_log.py` What a server said of its steps: histograms of decode and mixed steps, and how long they took.
- `prometheus.py` Prometheus text of vLLM and SGLang (GET /metrics): what a server counted since it started.
- `recorded_runs.py` A recorded run with its engine's settings: every step, its graph, its KV tokens and its time, as a log.
- `sglang.py` What SGLang logs of its steps: `Decode batch` lines, each a sample of many, and `Prefill batch` lines.
- `start_up.py` Start-up lines of vLLM and SGLang: what was captured, how long it took, what it left for the KV cache.
- `step_records.py` A row per step of a recorded engine: what ran, in which graph, and when (docs/profiles.md).
- `tensorrt_llm.py` What TensorRT-LLM logs of its steps: `print_iter_log` lines and the iteration statistics of `/metrics`.
- `vllm.py` What vLLM logs of its steps: graph tables, iteration details, running requests, acceptance.
- `wrappers.py` Log lines as collectors store them: colours, JSON around the text, and messages folded into one.
"""
