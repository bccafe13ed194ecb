"""How long people wait for the command line: `--help`, the main job with and without plots, tuning.

    python -m evidence.benchmarks.cli_speed [REPEATS] [--only NAME …]

Prints the best and the median of REPEATS (default 5) runs, each in a process of its own, in wall-clock
seconds and in CPU seconds; on a machine that is busy with other things the CPU seconds are the fairer ones,
and fairer still the last column: CPU time beside that of a bare SimPy loop of 1,000,000 events, measured
right after every run. Never a gate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evidence.benchmarks.loop_speed import bare_simpy_s

ROOT = Path(__file__).parents[2]
CHAT = "workloads/chat.yaml"
COMMANDS = {
    "--help": ["--help"],
    "bad input": ["nosuch.yaml"],
    "chat.yaml --no-plots": [CHAT, "--no-plots"],
    "chat.yaml, plots and report": [CHAT],
    "tune chat.yaml": ["tune", CHAT],
}


def seconds(words: list[str], out: str) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of one command."""
    before, begun = os.times(), time.perf_counter()
    runs = CHAT in words
    command = [sys.executable, "run.py", *words, *(["--out", out] if runs else [])]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=runs)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of lines, or how they begin")
    options = parser.parse_args()
    print(f"{'command':30} {'wall best':>10} {'median':>8} {'CPU best':>9} {'median':>8} {'/ bare loop':>12}")
    with tempfile.TemporaryDirectory() as out:
        for name, words in COMMANDS.items():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            walls, cpus, ratios = [], [], []
            for repeat in range(options.repeats):
                wall_s, cpu_s = seconds(words, f"{out}/{repeat}")
                walls.append(wall_s)
                cpus.append(cpu_s)
                ratios.append(cpu_s / bare_simpy_s(1_000_000))
            print(
                f"{name:30} {min(walls):10.2f} {statistics.median(walls):8.2f}"
                f" {min(cpus):9.2f} {statistics.median(cpus):8.2f} {statistics.median(ratios):12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
