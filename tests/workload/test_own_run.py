"""The files of a run of this program are inputs, too: requests, and steps one by one."""

from __future__ import annotations

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.engine.executor import StepKind
from scheduler.report.tables import write_tables
from scheduler.workload.bench_results.own_run import read_own_tables


def test_steps_come_back_one_by_one(tmp_path):
    run = small_comparison(requests=60, replications=1).pools[0].runs[0]
    write_tables(tmp_path, {"graphs": [run]})
    found = read_own_tables(tmp_path / "steps.npz")
    assert found.log is not None
    decode = run.steps.kind == StepKind.DECODE
    sizes, counts = np.unique(run.steps.batch_size[decode], return_counts=True)
    assert found.log.decode_steps == dict(zip(sizes.tolist(), counts.tolist(), strict=True))
    kv = run.steps.kv_tokens[decode & (run.steps.batch_size == sizes[0])] / sizes[0]
    assert found.log.kv_tokens[int(sizes[0])] == pytest.approx(float(kv.mean()))
