"""What proves the pages and builds the shipped data; no part of the wheel.

- `checked_advice.py` Check the tuner's advice on random workloads by runs of its own, and write the count into docs/tuning.md.
- `gallery.py` Redraw docs/gallery and docs/gallery.md: every picture from the command that stands beside it.
- `scheduler_decisions.py` Replays what vLLM's and SGLang's own schedulers decided: `python -m evidence.scheduler_decisions [LOG …]`.
- `tuning.py` Write the table of docs/tuning.md: the tuner on the shipped workloads, and on request traces where given.
"""
