"""How well a sweep uses its workers: the same sweep with one worker and with several.

    python -m evidence.benchmarks.sweep_speed [--workers N] [--requests 20000] [--workload FILE] [--skip-one]

10 rates × 4 pools (and eager) × 5 replications. Prints wall-clock seconds, the CPU seconds of the
simulations, utilisation = CPU seconds / (workers × wall), and the speed-up over one worker; checks that
both wrote the same bytes. Raise --requests until the sweep takes 60 s; use an idle machine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAID = re.compile(r"([0-9,]+) simulations computed.*?; ([0-9.]+) s with .*\(([0-9.]+) CPU s\)")


def sweep(workload: Path, requests: int, workers: int, folder: Path) -> tuple[float, float]:
    """Run one sweep as a person would; return its wall-clock and CPU seconds."""
    command = [
        sys.executable, str(ROOT / "run.py"), "sweep", str(workload),
        "--over", "arrivals.rate_per_s=2:20:2", "--over", 'pool=vllm,sglang,trtllm,"1,2,4,8,16,32"',
        "--set", f"requests={requests}", "--replications", "5",
        "--workers", str(workers), "--out", str(folder), "--no-plots",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = SAID.search(done.stderr)
    if done.returncode or said is None:
        raise SystemExit(done.stderr)
    wall_s, cpu_s = float(said[2]), float(said[3])
    share = cpu_s / (workers * wall_s)
    spent = f"{wall_s:7.1f} s, {cpu_s:7.1f} CPU s, utilisation {share:.0%}"
    print(f"{workers:4} workers: {said[1]} simulations, {spent}", flush=True)
    return wall_s, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", type=Path, default=ROOT / "workloads" / "chat.yaml")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--skip-one", action="store_true", help="leave out the run with one worker")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        several, one = Path(name) / "several", Path(name) / "one"
        wall_s, cpu_s = sweep(options.workload, options.requests, options.workers, several)
        if options.skip_one:
            print(f"CPU seconds per wall-clock second: {cpu_s / wall_s:.2f}")
            return
        alone_s, _ = sweep(options.workload, options.requests, 1, one)
        same = all(
            (several / file).read_bytes() == (one / file).read_bytes() for file in ("sweep.json", "sweep.csv")
        )
        print(
            f"speed-up over one worker: {alone_s / wall_s:.2f}; files {'the same' if same else 'DIFFERENT'}"
        )
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
