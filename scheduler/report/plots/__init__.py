"""Pictures for people who did not read the documentation. The only place that imports matplotlib.

- `batches.py` Which batch sizes ran, for how long, in which graph, and how much of it was padding.
- `decisions.py` Pictures to decide by: how many graphs to capture, how much traffic to take, speed against throughput.
- `fidelity.py` Simulated against measured: distributions and what ran over time.
- `latency.py` How long users wait: distributions of TTFT, TPOT, ITL and E2EL, as shares and as tails.
- `over_time.py` What the engine did over time: batch size by route, requests waiting and running, KV blocks.
- `panels.py` The report's panels: one small picture each, read at 360 pixels as on a desk; titles and legends are HTML.
- `step_times.py` What a decode step takes by the profile, against the batch size.
- `style.py` How every picture looks: colours that survive colour blindness and grey print, one font, units, files.
"""

from scheduler.report.plots.batches import batch_histogram, graph_use_bars
from scheduler.report.plots.decisions import pareto, sweep_curves, tuning_curve
from scheduler.report.plots.fidelity import measured_and_simulated
from scheduler.report.plots.latency import latency_ecdf
from scheduler.report.plots.over_time import over_time
from scheduler.report.plots.step_times import step_time
from scheduler.report.plots.style import save_png, to_svg

__all__ = [
    "batch_histogram",
    "graph_use_bars",
    "latency_ecdf",
    "measured_and_simulated",
    "over_time",
    "pareto",
    "save_png",
    "step_time",
    "sweep_curves",
    "to_svg",
    "tuning_curve",
]
