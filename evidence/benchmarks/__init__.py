"""Speed and memory figures; never a gate.

- `advice_speed.py` What advice costs, and what makes it cheaper: `tune` over five loads, and a sweep.
- `bench_draw.py` How long drawing and reading 1,000,000 requests takes: python -m evidence.benchmarks.bench_draw.
- `beside_vidur.py` CPU time beside Vidur (microsoft/vidur, MLSys 2024) on the same requests, in turns.
- `cli_speed.py` How long people wait for the command line: `--help`, the main job with and without plots, tuning.
- `interval_coverage.py` How often the printed 95 % intervals hold the truth, on queues whose exact means are known.
- `loop_speed.py` How fast the loop is: CPU time per step, beside a bare SimPy loop of as many events as steps.
- `memory.py` How memory grows with requests and with steps, between a run and one three times as long.
- `sweep_speed.py` How well a sweep uses its workers: the same sweep with one worker and with several.
"""
