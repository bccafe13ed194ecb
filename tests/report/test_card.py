"""What the card must say: sizes without a graph, rejections, preemptions, mixed steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison, compare
from scheduler.analysis.comparison.pools import NamedPool
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Status
from scheduler.report.cautions import warnings_of
from scheduler.report.full_card import full_text
from scheduler.report.summary import nested_results
from scheduler.report.tables import read_tables, write_tables
from scheduler.workload.schema import Workload


def comparison_of(*pools: GraphPool, requests: int = 40, replications: int = 1, **engine: Any) -> Comparison:
    profile = {
        "decode_eager_ms": {"base": 10, "per_request": 0.1},
        "decode_graph_ms": {"base": 5, "per_request": 0.1},
        "prefill_ms": {"base": 2, "per_token": 0.02},
    }
    workload = Workload.model_validate(
        {
            "name": "card",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"distribution": "uniform", "min": 20, "max": 400},
            "output_tokens": {"distribution": "uniform", "min": 20, "max": 60},
            "engine": {"policy": "mixed", "max_num_seqs": 8, "kv_blocks": "unlimited", "profile": profile}
            | engine,
        }
    )
    named = [NamedPool(f"pool{i}", pool, "test") for i, pool in enumerate(pools)]
    return compare(workload, workload.engine.profile, named, replications=replications)


def row(card: str, label: str) -> list[str]:
    (line,) = [line for line in card.splitlines() if line.startswith(label)]
    return line.removeprefix(label).split("  ")


def no_graph_warning(pool: GraphPool, **engine: Any) -> str | None:
    found = [warning for warning in warnings_of(comparison_of(pool, **engine)) if "have no graph" in warning]
    assert len(found) <= 1
    return found[0] if found else None


# Batch sizes without a graph.


@pytest.mark.parametrize(
    ("pool", "max_num_seqs", "sizes", "advice"),
    [
        (GraphPool((1, 2, 4)), 8, "5–8", "(capture 8, or lower max_num_seqs)"),
        (GraphPool((1, 2, 4, 8), padding=False), 8, "3, 5–7", "(turn padding on, or lower max_num_seqs)"),
        (GraphPool((2, 4), padding=False), 8, "1, 3, 5–8", "(turn padding on and capture 8, or lower"),
        (GraphPool((8, 16)), 17, "17", "none ran (capture 17)."),
        (GraphPool((8, 16), padding=False), 17, "1–7, 9–15, 17", "(turn padding on and capture 17, or"),
    ],
)
def test_every_batch_size_without_a_graph_is_named_with_the_way_out(pool, max_num_seqs, sizes, advice):
    warning = no_graph_warning(pool, max_num_seqs=max_num_seqs)
    assert warning.startswith(f"pool0: batch sizes {sizes} have no graph; ")
    assert advice in warning


@pytest.mark.parametrize(
    "pool", [GraphPool((8, 16)), GraphPool((1, 8)), GraphPool(tuple(range(1, 9)), False)]
)
def test_holes_that_padding_fills_and_full_pools_are_no_matter(pool):
    assert no_graph_warning(pool) is None


def test_no_graphs_at_all_is_a_choice_and_not_a_gap():
    assert no_graph_warning(GraphPool()) is None


def test_many_gaps_are_cut_on_the_card_and_whole_in_the_results():
    pool = GraphPool(tuple(range(2, 41, 4)), padding=False)
    comparison = comparison_of(pool, max_num_seqs=40)
    assert "1, 3–5, 7–9, 11–13, 15–17, 19–21 and 5 more ranges (results.json)" in full_text(comparison)
    found = nested_results(comparison, "")["variants"][0]["batch_sizes_without_graph"]
    without = {size for low, high in found for size in range(low, high + 1)}
    assert without == {size for size in range(1, 41) if size not in pool.sizes}


def test_the_share_of_steps_that_ran_without_a_graph_is_the_recorded_one():
    comparison = comparison_of(GraphPool((1, 2)), replications=2)
    shares = []
    for run in comparison.pools[0].runs:
        decode = run.steps.batch_size[run.steps.kind == 0]
        shares.append((decode > 2).mean())
    assert f"{100 * np.mean(shares):.1f} % of decode steps ran without one" in full_text(comparison)


# Mixed steps.


def test_mixed_steps_of_a_piecewise_pool_have_their_own_replay_share():
    full = GraphPool((1, 2, 4, 8, 128), piecewise=True)
    comparison = comparison_of(full, GraphPool((1, 2, 4, 8)))
    shares = []
    for column in comparison.pools:
        steps = column.runs[0].steps
        tokens = (steps.batch_size + steps.prefill_tokens)[steps.kind != 0]
        shares.append((tokens <= 128).mean() if column.variant.pool.piecewise else 0.0)
    assert 0 < shares[0] < 1
    cells = [cell.strip() for cell in row(full_text(comparison), "Replay share, steps with prompts") if cell]
    assert cells == ["0.0 %", f"{100 * shares[0]:.1f} %", f"{100 * shares[1]:.1f} %"]


def test_without_piecewise_graphs_mixed_steps_have_no_row():
    assert "steps with prompts" not in full_text(comparison_of(GraphPool((1, 2, 4, 8))))


# Rejections and preemptions.


def test_rejections_are_counted_by_reason():
    comparison = comparison_of(GraphPool((8,)), kv_blocks=24, max_model_len=400)
    requests = comparison.requests[0]
    longer = requests.prompt_tokens + requests.output_tokens > 400
    # All but the last token of the answer are kept: 24 blocks of 16 hold 384.
    never_fits = ~longer & (requests.prompt_tokens + requests.output_tokens - 1 > 384)
    assert longer.sum() > 1
    assert never_fits.sum() > 0
    run = comparison.pools[0].runs[0]
    assert ((run.requests.status == Status.REJECTED) == (longer | never_fits)).all()
    assert (run.requests.status[~(longer | never_fits)] == Status.COMPLETED).all()
    reasons = (
        f"{longer.sum()} × longer than max_model_len; "
        f"{never_fits.sum()} × needs more KV blocks than there are"
    )
    rejected = int((longer | never_fits).sum())
    assert f"warning: pool0: {rejected} requests rejected ({reasons})." in full_text(comparison)
    assert nested_results(comparison, "")["variants"][0]["rejections"] == {
        "longer than max_model_len": int(longer.sum()),
        "needs more KV blocks than there are": int(never_fits.sum()),
    }


def test_preemptions_are_on_the_card_and_per_request_in_the_tables(tmp_path):
    comparison = small_comparison(kv_blocks=400, rate_per_s=40.0)
    in_all, most = {}, {}
    write_tables(tmp_path, {column.name: column.runs for column in comparison.columns})
    for name, runs in read_tables(tmp_path).items():
        columns = [run.requests.preemptions for run in runs]
        in_all[name] = sum(int(column.sum()) for column in columns)
        most[name] = max(int(column.max()) for column in columns)
    assert all(count > 0 for count in in_all.values())
    (line,) = [line for line in full_text(comparison).splitlines() if line.startswith("preemptions: ")]
    texts = [
        f"{n} {in_all[n]:,} in all, at most {most[n]} of one request" for n in ("eager", "graphs", "vllm-64")
    ]
    assert line == f"preemptions: {'; '.join(texts)}"


def test_without_preemptions_the_card_does_not_speak_of_them():
    assert "preemption" not in full_text(comparison_of(GraphPool((8,))))
