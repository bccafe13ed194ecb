"""Builds profiles from what people and tools measure: one file per format.

- `aiconfigurator.py` A profile from a decode table as aiconfigurator gives it: GPU milliseconds of a whole decode step.
- `engine_benchmarks.py` Profiles from the engines' own latency benchmarks, run with and without graphs.
- `grid.py` From measured (size, KV per row) cells to a decode table, and how well a table predicts cells.
- `llmservingsim.py` A profile from LLMServingSim's layer tables: dense, per-sequence and the joint attention table.
- `overrides.py` Fields that the importing person states: `--set identity.gpu=…`, `--set memory.gpu_bytes=…`.
- `prefill_steps.py` The prefill section of a profile, from measured steps that computed prompt tokens.
- `recorded_drafts.py` What became of the drafts of a recorded run: how many were verified and accepted, by their place.
- `recorded_run.py` A recorded run of a real engine: `NAME.json`, `NAME_steps.csv.gz`, with traffic `NAME_requests.csv.gz`.
- `rows.py` Reading measurement files, plain or gzipped, with an error per bad row instead of a traceback.
- `whole_steps.py` A profile from whole step times: what a person can measure on any engine.
"""
