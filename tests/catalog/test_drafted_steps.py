"""Recorded steps of an engine that drafts: costs put in are found again, and foretell its traffic."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scheduler.analysis.fidelity.recorded import recorded_workload, traffic_of, validate_recorded
from scheduler.analysis.fidelity.teacher import residuals
from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.recorded_drafts import drafts_of
from scheduler.catalog.importers.recorded_run import read_recorded
from scheduler.catalog.profile.file import write_profile
from scheduler.catalog.profile.profile import DraftCosts
from scheduler.catalog.profile.tables import read_curve
from scheduler.commands.run import chosen_pools
from scheduler.errors import InputError
from scheduler.executors.model.engine_model import EngineCostModel
from scheduler.simulate import Variant, draft_cost
from tests.recorded_engine import Settings, paper_profile, record

SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512)
BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64)
CELLS = [(batch, 64, 24) for batch in BATCHES] + [(16, 1000, 24), (64, 500, 24)]
PROMPTS = [16, 16, 64, 64, 128, 128, 256, 256, 400, 400, 512, 512]
DRAFTS = DraftCosts(
    method="eagle",
    draft_tokens=3,
    pass_ms=0.4,
    token_ms=0.002,
    launch_ms=0.15,
    more={"piecewise": 1.0, "compiled": 2.0},
    accepted=(0.7, 0.5, 0.3),
)


def engines(folder: Path, *, gpu: float = 1.0) -> list[Path]:
    """Record an engine that does not draft, one that does, and one that does without large graphs."""
    model = EngineCostModel(paper_profile(gpu=gpu, noisy=False), "fallback")
    plain = record(folder, "plain", model, Settings(SIZES), cells=CELLS, prefills=PROMPTS)
    none = record(folder, "none", model, Settings(()), cells=CELLS[::3], prefills=PROMPTS[::2])
    drafting = Settings(SIZES, drafts=DRAFTS)
    traffic = [(40.0, 300, 100.0, 120.0)]
    drafts = record(folder, "drafts", model, drafting, cells=CELLS, prefills=PROMPTS, traffic=traffic)
    short = Settings(SIZES[:11], drafts=DRAFTS)
    ends = record(folder, "ends", model, short, cells=CELLS, prefills=PROMPTS, traffic=traffic)
    return [plain, none, drafts, ends]


def test_costs_of_drafting_and_of_verifying_are_found_again(tmp_path):
    truth = paper_profile(noisy=False)
    paths = engines(tmp_path)
    found, left_out = import_steps([Source(path) for path in paths], {})
    draft = found.draft
    assert draft is not None
    assert (draft.method, draft.draft_tokens) == ("eagle", 3)
    assert draft.launch_ms == pytest.approx(0.15, rel=0.02)
    assert draft.more.piecewise == pytest.approx(1.0, rel=0.02)
    assert draft.more.compiled == pytest.approx(2.0, rel=0.02)
    for tokens, rows in ((32, 8), (256, 64)):
        expected = 3 * DRAFTS.pass_ms + DRAFTS.token_ms * (tokens + 2 * rows)
        assert 3 * draft.pass_ms + draft.token_ms * (tokens + 2 * rows) == pytest.approx(expected, rel=0.1)
    assert draft.accepted == pytest.approx(DRAFTS.accepted, abs=0.03)
    for width in (4, 16, 64, 128, 256):
        expected = read_curve(truth.gpu.tokens, width) + truth.gpu.row_ms * width
        of_found = read_curve(found.gpu.tokens, width) + found.gpu.row_ms * width
        assert of_found == pytest.approx(expected, rel=0.03), width
    for how in ("full", "piecewise", "compiled"):
        # Up to the moment that handing over takes, which shows where the GPU was not waited for.
        assert truth.launch(how).ms - 0.01 < found.launch(how).ms < truth.launch(how).ms + 0.35, how
    assert found.provenance["draft"].origin == "measured"
    assert all(abs(entry.mean_error) < 0.02 for entry in left_out)


@pytest.mark.parametrize("name", ["drafts", "ends"])
@pytest.mark.parametrize("gpu", [1.0, 0.2], ids=["GPU-bound", "host-bound"])
def test_the_profile_foretells_the_drafting_engines_traffic(tmp_path, name, gpu):
    paths = engines(tmp_path, gpu=gpu)
    found, _ = import_steps([Source(path, grid_only=True) for path in paths], {})
    profile = tmp_path / "found.json"
    write_profile(profile, found)
    run = read_recorded(tmp_path / f"{name}.json")
    traffic = traffic_of(run, 0)
    workload = recorded_workload(run, traffic, str(profile))
    drawn = drafts_of(run, run.of_span(traffic.span)).of_all_rows
    assert workload.engine.speculation.acceptance.per_position == pytest.approx(drawn)
    pool = chosen_pools(workload, found, ())[-1].pool
    validation = validate_recorded(run, traffic, workload, found, pool, 2)
    assert abs(validation.latencies["tpot_ms"]["mean"]["error"]) < 0.04
    assert abs(validation.latencies["e2el_ms"]["mean"]["error"]) < 0.04
    assert abs(validation.throughput["error"]) < 0.03
    # The same steps, without feedback.
    model = EngineCostModel(found, "fallback")
    drafting = draft_cost(workload.engine.speculation, found, Variant("run", pool, "fallback"))
    found_steps = residuals(run, traffic.span, [model], drafting)
    measured, foretold = (
        sum(each.steps * getattr(each, key) for each in found_steps) for key in ("measured_ms", "model_ms")
    )
    assert foretold == pytest.approx(measured, rel=0.02)


def test_replayed_step_by_step_the_truth_is_met(tmp_path):
    """The recurrence with drafting is the paper engine's, which shares no code with it."""
    engines(tmp_path)
    truth = paper_profile(noisy=False).model_copy(update={"draft": DRAFTS})
    for name in ("drafts", "ends"):
        run = read_recorded(tmp_path / f"{name}.json")
        traffic = traffic_of(run, 0)
        workload = recorded_workload(run, traffic, "h100-vllm-llama-3.1-8b-bf16")
        pool = chosen_pools(workload, truth, ())[-1].pool
        drafting = draft_cost(workload.engine.speculation, truth, Variant("run", pool, "fallback"))
        for each in residuals(run, traffic.span, [EngineCostModel(truth, "fallback")], drafting):
            assert each.model_ms == pytest.approx(each.measured_ms, rel=0.002, abs=0.002), each


def test_without_a_run_that_does_not_draft_drafting_is_inside_the_steps(tmp_path):
    _, _, drafts, ends = engines(tmp_path)
    found, _ = import_steps([Source(drafts), Source(ends)], {})
    assert (found.draft.pass_ms, found.draft.token_ms) == (0.0, 0.0)
    assert found.provenance["draft"].origin == "derived"
    whole = read_curve(found.gpu.tokens, 256) + found.gpu.row_ms * 256
    truth = paper_profile(noisy=False).gpu
    expected = read_curve(truth.tokens, 256) + truth.row_ms * 256
    expected += 3 * DRAFTS.pass_ms + DRAFTS.token_ms * (256 + 2 * 64)
    assert whole == pytest.approx(expected, rel=0.04)


def test_runs_that_draft_unlike_numbers_are_refused(tmp_path):
    paths = engines(tmp_path)
    text = (
        paths[3]
        .read_text(encoding="utf-8")
        .replace('"num_speculative_tokens": 3', '"num_speculative_tokens": 5')
    )
    paths[3].write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"draft_tokens: expected that of drafts\.json, 3, got 5"):
        import_steps([Source(path) for path in paths], {})


def test_counts_that_contradict_each_other_are_one_line(tmp_path):
    model = EngineCostModel(paper_profile(noisy=False), "fallback")
    path = record(tmp_path, "bad", model, Settings(SIZES, drafts=DRAFTS), cells=[(4, 64, 24)])
    steps = tmp_path / "bad_steps.csv.gz"
    text = gzip.decompress(steps.read_bytes()).decode()
    steps.write_bytes(gzip.compress(text.replace(",4 4 4,", ",4 5 4,", 1).encode()))
    with pytest.raises(InputError, match="requests ≥ drafts ≥ accepted"):
        read_recorded(path)
