"""`run.py WORKLOAD` and `run.py tune WORKLOAD` never contradict each other, on random workloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import call

from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.padding import most_padding
from scheduler.commands.run import workload_profile
from scheduler.executors.model.by_profile import cost_model
from scheduler.workload.file.loader import load_workload

ADVICE = ("KEEP", "RAISE THE CEILING", "TRIM")
MEASURED = "h100-vllm-0.26-llama-3.1-8b-bf16"


def random_workload(seed: int) -> dict[str, Any]:
    """Return a workload whose list may be too long, too short or just right, on many or few requests."""
    random = np.random.default_rng([7, seed])
    seqs = int(random.choice([16, 32, 64]))
    base, slope = float(random.uniform(2, 8)), float(10 ** random.uniform(-3, -0.8))
    batches = np.arange(1, seqs + 1)
    graph = base + slope * batches + random.uniform(0, 0.1) * base * (batches // 16)
    output = int(random.integers(10, 60))
    rate = seqs * random.uniform(0.05, 0.3) / (1e-3 * (base + slope * seqs / 5) * output)
    top = int(random.choice([seqs, seqs, seqs, seqs // 4]))
    lists = (
        {"preset": "vllm"},
        {"sizes": [size for size in (1, 2, 4, *range(8, seqs + 1, 8)) if size <= top]},
        {"sizes": list(range(1, top + 1))},
    )
    return {
        "name": f"random_{seed}",
        "seed": seed,
        "requests": int(random.choice([20, 60, 130, 250, 250])),
        "arrivals": {"process": "poisson", "rate_per_s": round(float(rate), 3)},
        "prompt_tokens": {"distribution": "fixed", "value": 10},
        "output_tokens": {"distribution": "geometric", "mean": output, "max": 6 * output},
        "engine": {
            "policy": "decode_only",
            "max_num_seqs": seqs,
            "kv_blocks": "unlimited",
            "profile": {
                "decode_graph_ms": {"table": [round(float(ms), 4) for ms in graph]},
                "decode_eager_ms": {"table": [round(float(ms) * 1.1 + base, 4) for ms in graph]},
            },
        },
        "pool": lists[int(random.integers(0, 3))],
    }


def asked(card: str) -> str:
    """Return a card's sentence on fewer graphs, joined again where it was wrapped."""
    lines = card.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("Fewer graphs?"))
    goes_on = lines[first + 1].startswith("  ") and not lines[first].endswith((".", "?"))
    text = lines[first] + (lines[first + 1].replace("  ", " ", 1) if goes_on else "")
    return text.partition(" (no flag")[0].partition(" (of the own list;")[0]


def flag_lines(text: str) -> list[str]:
    joined = text.replace(" \\\n    ", " ")
    return [line.strip() for line in joined.splitlines() if "--cudagraph-capture-sizes" in line]


def both(path: Path, folder: Path) -> tuple[str, str, dict[str, Any]]:
    card = call(path, "--no-plots", "--out", folder / "card")
    tune = call("tune", path, "--no-plots", "--out", folder / "tune")
    assert (card.status, tune.status) == (0, 0), card.stderr + tune.stderr
    return card.stdout, tune.stdout, json.loads((folder / "tune" / "tune.json").read_text())


def agree(path: Path, card: str, tune: str, answer: dict[str, Any]) -> None:
    """Assert that both commands say the same, and that nothing either hands out has a cliff."""
    assert asked(tune) == asked(card)
    offered = flag_lines(card)
    advice, fewer = answer["verdict"]["advice"], answer["fewer"]
    assert advice in ADVICE
    assert tune.startswith(advice)
    pasted = flag_lines(tune)
    if advice == "KEEP":
        assert pasted == offered
        assert ("Nothing to paste: keep the list" in tune) == (not offered)
    else:
        assert len(pasted) == 1
        assert f" {' '.join(map(str, answer['sizes']))} " in f"{pasted[0]} "
    if "too few to tell" in tune or "too short to tell" in tune.splitlines()[0]:
        assert not pasted
        assert "Not judged" in asked(card)
    for line in offered:
        workload = load_workload(path)
        own = workload_pool(workload.pool, workload.engine, workload_profile(workload)).pool
        assert fewer["paste"].splitlines()[1] == line
        assert set(fewer["sizes"]) < set(own.sizes)
        assert f" {' '.join(map(str, fewer['sizes']))} " in f"{line} "
        # By another way than the program's: every batch there is, at no KV length.
        model = cost_model(workload_profile(workload), "fallback")
        engine = workload.engine
        share, batch = most_padding(
            own,
            own.with_sizes(fewer["sizes"]),
            model,
            0.0,
            engine.max_num_seqs,
            engine.prefill_tokens_per_step,
        )
        assert share <= 0.1, f"batch {batch} takes {share:.1%} longer"


@pytest.mark.parametrize("seed", range(24))
def test_the_two_commands_say_the_same_of_a_random_workload(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(yaml.safe_dump(random_workload(seed)))
    agree(path, *both(path, tmp_path))


def test_the_two_commands_say_the_same_of_a_measured_server_and_its_flag(tmp_path: Path) -> None:
    content = random_workload(0)
    content |= {"requests": 400, "arrivals": {"process": "poisson", "rate_per_s": 20}}
    content |= {"output_tokens": {"distribution": "geometric", "mean": 60}, "pool": {"preset": "vllm"}}
    content["engine"] |= {"max_num_seqs": 128, "profile": MEASURED}
    path = tmp_path / "workload.yaml"
    path.write_text(yaml.safe_dump(content))
    card, tune, answer = both(path, tmp_path)
    agree(path, card, tune, answer)
    assert flag_lines(card), "this one has a list to offer"
