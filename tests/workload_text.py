"""A good workload file to change line by line, and what the loader says of it. Shared by loader tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.errors import InputError
from scheduler.workload.file.loader import load_workload

GOOD = """\
name: chat
seed: 3
requests: 2e3
arrivals: {process: poisson, rate_per_s: 8}
prompt_tokens: {distribution: lognormal, mean: 1155, p99: 4142, max: 14050}
output_tokens: {distribution: geometric, mean: 211, max: 1000}
engine:
  policy: prefill_first
  max_num_seqs: 64
  kv_blocks: unlimited
  profile: some-shipped-name
pool: {sizes: [1, 2, 4]}
slo: {ttft_ms: 500}
"""
INLINE = (
    "{decode_eager_ms: {base: 12, per_request: 0.2}, decode_graph_ms: {table: [6.3, 6.6]},"
    " prefill_ms: {base: 0, per_token: 0.01}}"
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "w.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(folder: Path, text: str | bytes, *overrides: str, trace: Path | None = None) -> list[str]:
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        load_workload(path, overrides, trace)
    return [line.removeprefix(f"{folder}/") for line in caught.value.lines]
