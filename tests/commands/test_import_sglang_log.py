"""An SGLang log becomes a profile of decode steps, by what its lines say of batch, graph and throughput."""

from __future__ import annotations

import pytest
from command_line import call

from scheduler.catalog.profile.file import load_profile


def log_of(step_ms: dict[tuple[int, bool], float]) -> str:
    lines = ["[2026-11-20 10:00:00] server_args=ServerArgs(decode_log_interval=1)"]
    for (batch, graph), ms in step_ms.items():
        lines += [
            f"[2026-11-20 10:00:0{second} TP0] Decode batch, #running-req: {batch}, #token: {batch * 300}, "
            f"token usage: 0.10, cuda graph: {graph}, gen throughput (token/s): {batch / ms * 1e3:.4f}, "
            "#queue-req: 0"
            for second in range(3)
        ]
    return "\n".join(lines) + "\n"


def test_decode_lines_become_graph_and_eager_curves(tmp_path):
    truth = {(1, True): 6.0, (8, True): 6.5, (32, True): 8.0, (1, False): 25.0, (32, False): 26.0}
    log = tmp_path / "server.log"
    log.write_text(log_of(truth), encoding="utf-8")
    run = call("profile", "import", "sglang", log, "-o", tmp_path / "p.json")
    assert run.status == 0, run.stderr
    profile = load_profile(str(tmp_path / "p.json"))
    assert profile.identity.engine == "SGLang"
    for mode in ("graph", "eager"):
        curve = profile.curve(mode)
        sizes = [batch for batch, graph in truth if graph == (mode == "graph")]
        assert list(curve.sizes) == sizes
        table = getattr(profile.decode, mode).gpu
        for row, batch in enumerate(sizes):
            assert table.ms[row][0] == pytest.approx(truth[batch, mode == "graph"], rel=1e-4)
            assert table.kv_tokens[row][0] == batch * 300


def test_lines_without_graph_or_throughput_are_refused_in_words(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("[TP0] Decode batch. #running-req: 4, #token: 64\n" * 3, encoding="utf-8")
    run = call("profile", "import", "sglang", log, "-o", tmp_path / "p.json")
    assert run.status == 2
    assert "expected Decode batch lines with #token, cuda graph and gen throughput; found none" in run.stderr


def test_modes_are_for_results_alone(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(log_of({(1, True): 6.0}), encoding="utf-8")
    run = call("profile", "import", "sglang", log, "-o", tmp_path / "p.json", "--modes", "a=graph")
    assert (run.status, "--modes: expected only with results" in run.stderr) == (2, True)
