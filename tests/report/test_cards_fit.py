"""Whatever the workload, the card fits 25 lines of 80 columns and keeps its facts whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, WORKLOADS, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_comparison import small_comparison

from scheduler.report.answer import verdict_lines
from scheduler.report.card import HEIGHT, WIDTH, card_text

FEW = ("--no-plots", "--replications", "2", "--set", "requests=150")
CHAT = ROOT / "workloads" / "chat.yaml"
TINY = ROOT / "workloads" / "tiny_cpu.yaml"
# Names of what a reader must be able to read to its end; a longer one is left out whole, never cut.
ORIGINS = ("measured", "derived", "ASSUMED", "as on your host")


def assert_fits(card: str) -> list[str]:
    """See to it that a card fits, is whole, and cuts no word; return its lines."""
    lines = card.splitlines()
    assert len(lines) <= HEIGHT, card
    assert max(map(len, lines)) <= WIDTH, card
    assert lines[-1].startswith("next ")
    assert "every percentile" in lines[-1] or "percentiles" in lines[-1]
    cut = [line for line in lines if line.endswith("…") and not line.endswith(" …")]
    assert not [line for line in cut if not line.startswith(("graphs", "pool"))], cut
    assert not [line for line in lines if line.startswith(("graphs hit", "change:")) and "…" in line], card
    (trust,) = [index for index, line in enumerate(lines) if line.startswith("trust ")]
    rest = [line for line in lines[trust:] if not line.startswith(("caution", "next"))]
    assert not [line for line in rest if "…" in line.replace("…+", "").replace("…−", "")], card
    if lines[trust].startswith("trust     profile"):
        assert any(word in " ".join(rest) for word in ORIGINS)
        assert re.search(r"eager (\w+,|\w+ of|as on)", " ".join(rest)), card
    for index, line in enumerate(lines):  # a caution stands there whole
        if line.startswith("caution"):
            text = line
            for further in lines[index + 1 :]:
                if not further.startswith("          "):
                    break
                text = further
            assert text.endswith("."), card
    return lines


SHIPPED = {path.stem: (path,) for path in WORKLOADS}
VARIED = {
    "two pools": (CHAT, "--pool", "sglang"),
    "three pools": (CHAT, "--pool", "sglang", "--pool", "1,2,4,8", "--pool", "all"),
    "overload": (CHAT, "--set", "arrivals.rate_per_s=80"),
    "kv bound": (CHAT, "--set", "engine.kv_blocks=700"),
    "no slo": (CHAT, "--set", "slo=null"),
    "absurd slo": (CHAT, "--set", "slo={tpot_ms: 0.001}"),
    "own eager": (CHAT, "--eager-ms", "14"),
    "all prompt": (CHAT, "--set", "output_tokens={distribution: fixed, value: 1}"),
    "another gpu": (CHAT, "--set", "engine.gpu=L40S", "--set", "engine.model=Qwen3-30B-A3B-Instruct"),
    "another engine": (CHAT, "--set", "pool.preset=sglang"),
    "closed loop": (CHAT, "--set", "arrivals={process: closed_loop, concurrency: 20}"),
    "most refused": (CHAT, "--set", "engine.max_model_len=900"),
    "prefixes": (CHAT, "--set", "engine.preset=vllm-h100"),
    "a100": (CHAT, "--set", "engine.profile=a100-llama-3.1-8b-bf16"),
    "rtx4090": (CHAT, "--set", "engine.profile=rtx4090-llama-3.1-8b-bf16", "--set", "engine.kv_blocks=900"),
    "h200 torch": (CHAT, "--set", "engine.profile=h200-torch-llama-8b"),
    "one graph": (TINY, "--set", "pool={sizes: [32]}"),
    "no graph": (TINY, "--set", "pool={sizes: []}"),
    "every size": (CHAT, "--set", "pool={preset: all}"),
    "drafting, two pools": (ROOT / "workloads" / "speculation.yaml", "--pool", "1,2,4,8,256"),
    "one request": (CHAT, "--set", "requests=1"),
}


@pytest.mark.parametrize("words", SHIPPED.values(), ids=SHIPPED.keys())
def test_the_card_of_every_shipped_workload_fits(words: tuple[Path, ...], tmp_path: Path) -> None:
    is_timed = words[0].stem == "burst"
    few = ("--no-plots", "--replications", "1", "--set", "duration_s=60") if is_timed else FEW
    outcome = call(*words, *few, "--out", tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert_fits(outcome.stdout)


@pytest.mark.parametrize("words", VARIED.values(), ids=VARIED.keys())
def test_the_card_of_unusual_workloads_fits(words: tuple[Any, ...], tmp_path: Path) -> None:
    outcome = call(words[0], *FEW, *words[1:], "--out", tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert_fits(outcome.stdout)


def test_the_card_of_real_execution_fits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = ("--executor", "torch", "--no-plots", "--set", "requests=20", "--out", tmp_path)
    lines = assert_fits(call(TINY, *words).stdout)
    assert [line for line in lines if line.startswith("Fewer graphs? Not judged on executed steps")]


@given(
    rate=st.sampled_from([0.5, 4.0, 15.0, 60.0]),
    requests=st.sampled_from([1, 20, 130]),
    policy=st.sampled_from(["mixed", "prefill_first", "decode_only"]),
    kv_blocks=st.sampled_from([300, 1200, "unlimited"]),
    name=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=90),
    origin=st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), max_size=300),
    slo=st.sampled_from([None, {"tpot_ms": 20}, {"ttft_ms": 1, "tpot_ms": 1, "e2el_ms": 1e6}]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_card_of_any_run_fits(
    rate: float, requests: int, policy: str, kv_blocks: int | str, name: str, origin: str, slo: Any
) -> None:
    comparison = small_comparison(policy, requests, rate, kv_blocks, name, origin, slo=slo)
    lines = card_text(comparison).splitlines()
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    first = verdict_lines(comparison)[0]
    assert " ".join(card_text(comparison).split()).startswith(" ".join(first.split())), "whole, not cut"


def test_headline_numbers_are_those_of_the_request_table(tmp_path: Path) -> None:
    """Mean TPOT of each variant, computed again from requests.npz by code of its own."""
    card = call(CHAT, *FEW, "--out", tmp_path).stdout
    results = json.loads((tmp_path / "results.json").read_text())
    with np.load(tmp_path / "requests.npz") as table:
        rows = {key: table[key] for key in table.files}
    found = {}
    for index, name in enumerate(rows["variants"].tolist()):
        means = []
        for replication in range(results["replications"]):
            mine = (rows["variant"] == index) & (rows["replication"] == replication)
            counted = np.flatnonzero(mine)[results["warmup_requests"] :]
            tokens = rows["output_tokens"][counted]
            after = (rows["finish_ns"] - rows["first_token_ns"])[counted]
            means.append((after[tokens > 1] / 1e6 / (tokens[tokens > 1] - 1)).mean())
        found[name] = np.mean(means)
    numbers = re.search(r"mean TPOT +graphs ([\d.]+)–([\d.]+) ms +eager ([\d.]+)–([\d.]+) ms", card)
    assert numbers is not None
    expected = [found[name] for name in ("graphs", "graphs_high", "eager", "eager_high")]
    assert [float(text) for text in numbers.groups()] == pytest.approx(expected, rel=6e-3)
    changes = [100 * (expected[at] / expected[at + 2] - 1) for at in (0, 1)]
    low, high = re.search(
        r"mean TPOT (?:changes by )?(−[\d.]+)…(−[\d.]+) %", card.replace("\n", " ")
    ).groups()
    assert [float(text.replace("−", "-")) for text in (low, high)] == pytest.approx(changes, abs=0.6)
