"""docs/gpu.md says what was measured: the costs in evidence/data, the shipped profiles and the H100's CSV."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.catalog.profile.file import load_profile

ROOT = Path(__file__).parents[1]
DATA = ROOT / "evidence" / "data"
H100 = Path(os.environ.get("GRAPHPOOL_SHARED", ROOT.parent / "shared")) / "calibration/h100_torch_decode.csv"
COSTS: dict[str, Any] = json.loads((DATA / "h200_costs.json").read_text(encoding="utf-8"))
TEXT = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
MIB = 2**20


def section(name: str) -> list[str]:
    """Return the rows of the table between the page's markers."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", TEXT, re.DOTALL)
    assert found is not None
    return found[1].splitlines()[2:]


def pool_rows() -> Iterator[str]:
    for pool in COSTS["pools"]:
        memory = f"{pool['pool_bytes'] / MIB:.0f} ({pool['device_bytes'] / MIB:.0f})"
        calls = pool["replay_call_us"]
        yield (
            f"| {pool['model']} | {pool['sizes']} | {pool['warm_up_s']:.2f} | {pool['capture_s']:.2f} "
            f"| {memory} | {pool['first_graph_bytes'] / MIB:.0f} "
            f"| {pool['fewest_nodes']} to {pool['most_nodes']} "
            f"| {calls['least']:.0f} to {calls['most']:.0f} |"
        )


def attention_rows() -> Iterator[str]:
    calls = {(row["batch"], row["attention"], row["context"]): row for row in COSTS["attention"]}
    for batch in (1, 8, 64):
        for attention in ("slab", "flash"):
            times = [f"{calls[batch, attention, tokens]['call_us']:.0f}" for tokens in (16, 128, 1024, 4096)]
            yield f"| {batch} | {attention} | {' | '.join(times)} |"


def replay_rows() -> Iterator[str]:
    for row in COSTS["replay_by_nodes"]:
        names = ("eager_issue_us", "eager_total_us", "replay_issue_us", "replay_total_us")
        yield f"| {row['nodes']:,} | {' | '.join(f'{row[name]:,.0f}' for name in names)} |"


def cross_rows(path: Path) -> Iterator[str]:
    """H100 / H200, whole graph steps of equal rows, cell by cell."""
    with path.open(encoding="utf-8", newline="") as file:
        h100 = {
            (row["model"], int(row["batch"]), int(row["context_tokens"])): float(row["wall_ms"])
            for row in csv.DictReader(file)
            if row["mode"] == "graph"
        }
    for model in ("llama-8b", "qwen3-0.6b"):
        profile = load_profile(f"h200-torch-{model}-equal-rows.json", DATA)
        assert profile.decode.graph is not None
        table, host_ms = profile.decode.graph.gpu, profile.host.step_ms.low
        h200 = {
            # a row of c tokens holds c - 1 before the step
            (size, round(tokens / size) + 1): ms + host_ms
            for size, kv_tokens, times in zip(table.sizes, table.kv_tokens, table.ms, strict=True)
            for tokens, ms in zip(kv_tokens, times, strict=True)
        }
        for context in (128, 1024, 4096):
            cells = []
            for batch in (1, 8, 32, 64, 128, 256, 512):
                theirs, ours = h100.get((model, batch, context)), h200.get((batch, context))
                cells.append("–" if theirs is None or ours is None else f"{theirs / ours:.2f}")
            yield f"| {model} | {context:,} | {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("name", "rows"), [("pool costs", pool_rows), ("attention", attention_rows), ("replays", replay_rows)]
)
def test_the_gpu_page_has_the_measured_table(name, rows):
    assert section(name) == list(rows())


def test_the_gpu_page_compares_the_h200_with_the_h100_cell_by_cell():
    if not H100.exists():
        pytest.skip("the H100 measurements are not beside the repository (GRAPHPOOL_SHARED)")
    assert section("h100") == list(cross_rows(H100))


def test_the_figures_in_the_text_are_those_measured():
    memory = ", ".join(
        f"{row['pool_bytes'] / MIB:.0f} at {row['size']}" for row in COSTS["memory_per_graph"][:2]
    )
    assert f"{memory}, 0 below" in TEXT
    assert all(row["pool_bytes"] == 0 for row in COSTS["memory_per_graph"][2:])
    assert f"({COSTS['freed_by_reset_bytes'] / MIB:.0f} MiB)" in TEXT
    assert all(row["replay_equals_eager"] for row in COSTS["attention"])
    assert {round(row["error"], 3) for row in COSTS["attention"]} == {0.002}
    most = {pool["model"]: 0.0 for pool in COSTS["pools"]}
    for pool in COSTS["pools"]:
        most[pool["model"]] = max(most[pool["model"]], pool["replay_call_us"]["most"])
    assert f"{max(most['qwen3-0.6b'], most['llama-1b']):.0f} µs (Qwen3-0.6B, Llama-1B)" in TEXT
    assert f"{most['llama-8b']:.0f} µs (Llama-8B)" in TEXT


def test_flatness_and_neighbours_in_the_text_are_those_of_the_shipped_profiles():
    answer = TEXT.split("7. *Are")[1].split("8. *Memory")[0]
    behind = []
    for model, shown in (("qwen3-0.6b", "Qwen3-0.6B"), ("llama-1b", "Llama-1B"), ("llama-8b", "Llama-8B")):
        step_ms = whole_steps_ms(f"h200-torch-{model}")
        text = re.search(rf"{shown} (1\.\d\d.*?)[;.] ?(?:Llama|There)", answer, re.DOTALL)
        assert text is not None
        ratios = [f"{step_ms[size] / step_ms[1]:.2f}" for size in (8, 32, 64, 128)]
        assert re.findall(r"\d\.\d\d", text[1]) == ratios
        behind += [step_ms[size + 1] / step_ms[size] - 1 for size in (8, 16, 32, 64, 128)]
        assert f"{100 * (step_ms[257] / step_ms[256] - 1):+.1f}" in TEXT
    assert f"takes −{-100 * min(behind):.1f} to" in TEXT
    assert f"{100 * max(behind):+.1f} % more than P up to 128" in TEXT


def whole_steps_ms(name: str) -> dict[int, float]:
    """Return the measured graph steps at 256 tokens a row, by size."""
    profile = load_profile(name)
    assert profile.decode.graph is not None
    table, host_ms = profile.decode.graph.gpu, profile.host.step_ms.low
    for size, kv_tokens in zip(table.sizes, table.kv_tokens, strict=True):
        assert kv_tokens[1] == pytest.approx(255 * size, rel=0.01)
    return {size: row[1] + host_ms for size, row in zip(table.sizes, table.ms, strict=True)}


def test_step_times_of_the_gpu_page_are_those_of_the_shipped_profiles():
    shapes = {"Qwen3-0.6B": "qwen3-0.6b", "Llama-1B": "llama-1b", "Llama-8B": "llama-8b"}
    for title, model in shapes.items():
        found = re.search(rf"\| {title} \| 1 / 64 / 512 \| [^|]+ \| ([^|]+) \|", TEXT)
        assert found is not None
        step_ms = whole_steps_ms(f"h200-torch-{model}")
        for size, shown in zip((1, 64, 512), found[1].split(" / "), strict=True):
            assert float(shown) == pytest.approx(step_ms[size], rel=0.01)
