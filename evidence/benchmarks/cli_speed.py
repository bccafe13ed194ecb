"""How long people wait for the command line: `--help`, and the main job with and without plots. Never a gate.

    python -m evidence.benchmarks.cli_speed [REPEATS]

Prints the best and the median of REPEATS (default 5) runs, each in a process of its own, in wall-clock
seconds and in CPU seconds; on a machine that is busy with other things the CPU seconds are the fairer ones.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHAT = "workloads/chat.yaml"
COMMANDS = {
    "--help": ["--help"],
    "bad input": ["nosuch.yaml"],
    "chat.yaml --no-plots": [CHAT, "--no-plots"],
    "chat.yaml, plots and report": [CHAT],
}


def seconds(words: list[str], out: str) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of one command."""
    before, begun = os.times(), time.perf_counter()
    runs = words[0] == CHAT
    command = [sys.executable, "run.py", *words, *(["--out", out] if runs else [])]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=runs)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, cpu


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'command':30} {'wall best':>10} {'median':>8} {'CPU best':>9} {'median':>8}")
    with tempfile.TemporaryDirectory() as out:
        for name, words in COMMANDS.items():
            walls, cpus = zip(*(seconds(words, out) for _ in range(repeats)), strict=True)
            print(
                f"{name:30} {min(walls):10.2f} {statistics.median(walls):8.2f}"
                f" {min(cpus):9.2f} {statistics.median(cpus):8.2f}"
            )


if __name__ == "__main__":
    main()
