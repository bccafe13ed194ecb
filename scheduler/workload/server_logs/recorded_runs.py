"""A recorded run with its engine's settings: every step, its graph, its KV tokens and its time, as a log."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from scheduler.catalog.importers.recorded_drafts import drafts_of
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun
from scheduler.workload.server_logs.engine_log import EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts

NAME = "recorded run"
COMMAND = "GRAPHPOOL_RECORD=NAME vllm serve MODEL"
_STEPS = "_steps.csv"
_WITHOUT = (MODES.index("compiled"), MODES.index("eager"))


def settings_of(steps: Path) -> Path | None:
    """Return the `NAME.json` beside `NAME_steps.csv.gz`, None where there is none."""
    name, found, _ = steps.name.partition(_STEPS)
    beside = steps.with_name(f"{name}.json")
    return beside if found and beside.is_file() else None


def log_of(run: RecordedRun) -> EngineLog:
    """Return a recorded run's steps as a server's log; a step takes from the hand-over before to its own.

    Of an engine that drafts, decode steps are those whose every request verifies all its drafts; one that
    lacks some is dispatched like a step with prompts, by its tokens.
    """
    steps = run.steps
    is_mixed = (steps.chunks > 0) | (steps.draft_tokens != steps.decodes * run.engine.draft_tokens)
    ragged = int((is_mixed & (steps.chunks == 0) & ~steps.held).sum())
    before = np.concatenate([steps.scheduled[:1], steps.output[:-1]])
    took_ms = steps.output - np.maximum(before, steps.scheduled)
    decode: Counter[int] = Counter()
    mixed: Counter[int] = Counter()
    without: Counter[int] = Counter()
    times: dict[tuple[int, bool | None], Times] = defaultdict(Times)
    mixed_times: dict[int, Times] = defaultdict(Times)
    kv: dict[int, Times] = defaultdict(Times)
    rows = zip(
        steps.requests.tolist(),
        steps.tokens.tolist(),
        is_mixed.tolist(),
        steps.mode.tolist(),
        steps.kv_tokens.tolist(),
        took_ms.tolist(),
        steps.held.tolist(),
        strict=True,
    )
    for requests, tokens, with_prompts, mode, kv_tokens, ms, held in rows:
        if held:
            continue
        if with_prompts:
            mixed[tokens] += 1
            mixed_times[tokens].add(ms)
            continue
        decode[requests] += 1
        times[requests, mode not in _WITHOUT].add(ms)
        kv[requests].add(kv_tokens / requests)
        if mode in _WITHOUT:
            without[requests] += 1
    counts = ", ".join(
        f"{int((steps.mode == index).sum()):,} {name}"
        for index, name in enumerate(MODES)
        if (steps.mode == index).any()
    )
    return EngineLog(
        "vllm",
        dict(sorted(decode.items())),
        dict(sorted(mixed.items())),
        _facts(run),
        (
            f"{decode.total():,} decode steps and {mixed.total():,} with prompts, every one recorded",
            f"graphs: {counts}",
            *_drafting_notes(run, ragged),
        ),
        kv_tokens={batch: share.mean_ms for batch, share in sorted(kv.items())},
        decode_times=dict(sorted(times.items(), key=str)),
        mixed_times=dict(sorted(mixed_times.items())),
        without_graph=dict(sorted(without.items())),
        accepted_length=drafts_of(run).tokens_per_step if run.engine.draft_tokens else None,
        tokens_per_request=1 + run.engine.draft_tokens,
    )


def _drafting_notes(run: RecordedRun, ragged: int) -> list[str]:
    """Say how the engine drafted, and what became of its drafts."""
    if not run.engine.draft_tokens:
        return []
    width = 1 + run.engine.draft_tokens
    notes = [f"speculative decoding: {width} tokens to a request and step; sizes are requests"]
    if ragged:
        notes.append(
            f"{ragged:,} decode steps had requests with fewer drafts: taken by tokens, as those with prompts"
        )
    return [*notes, drafts_of(run).text()]


def _facts(run: RecordedRun) -> StartUpFacts:
    engine = run.engine
    words = engine.version.split()
    return StartUpFacts(
        "vllm",
        engine.capture_sizes or None,
        engine.cudagraph_mode,
        engine.kv_blocks * engine.block_size,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        block_size=engine.block_size,
        version=words[-1] if words and words[-1][:1].isdigit() else None,
        runner=engine.runner,
        draft_tokens=engine.draft_tokens or None,
    )
