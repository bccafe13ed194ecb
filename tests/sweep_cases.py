"""A small workload for sweeps, and the way to run `run.py sweep` as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SMALL = """\
name: small
requests: 200
arrivals: {process: poisson, rate_per_s: 20}
prompt_tokens: {distribution: fixed, value: 40}
output_tokens: {distribution: geometric, mean: 19}
engine:
  policy: prefill_first
  max_num_seqs: 8
  kv_blocks: unlimited
  profile:
    decode_eager_ms: {base: 9, per_request: 0.02}
    decode_graph_ms: {base: 4, per_request: 0.03}
    prefill_ms: {base: 1, per_token: 0.01}
pool: {sizes: [1, 2, 4, 8]}
slo: {ttft_ms: 500, tpot_ms: 11}
"""


def write_workload(folder: Path, text: str = SMALL) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def start_sweep(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "run.py"), "sweep", *map(str, arguments), "--no-plots"]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_sweep_command(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start_sweep(*arguments, cwd=cwd)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr
