"""What benchmark tools write: requests with their lengths, arrivals and latencies.

- `aiperf.py` AIPerf's profile_export.jsonl: a line per request.
- `cells.py` The values of a benchmark's result, checked one by one, and the rows they become.
- `guidellm.py` GuideLLM's benchmarks.json: every benchmark of a report with its requests.
- `lists_of_requests.py` Results that hold lists, one entry per request: `vllm bench serve` and SGLang's `bench_serving`.
- `own_run.py` The files of a run of this program: requests.npz, steps.npz and the step log of real execution.
- `request_logs.py` Plain logs of measured requests: JSON lines of vLLM's benchmark tools and LLMServingSim, and a CSV.
"""
