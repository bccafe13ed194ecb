"""From a server's log and a profile to the best sizes; what the log does not say is assumed and noted."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scheduler.analysis.tuning.answer import LogAnswer
from scheduler.analysis.tuning.budgets import Budgets, size_rules_for
from scheduler.analysis.tuning.log_evidence import (
    KV_TOKENS_PER_REQUEST,
    contradiction,
    kv_by_batch,
    own_times,
)
from scheduler.analysis.tuning.open_loop import StepCosts, open_loop_choice
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import Launch
from scheduler.executors.model.step_lines import StepLine
from scheduler.workload.file.loader import parse_inline_yaml, read_file
from scheduler.workload.server_logs.engine_log import EngineLog

LARGEST_MIXED = 512
MOST_CANDIDATES = 4096
GRAPH_AT_A_TIE = 1e-9


def profile_of(name_or_path: str) -> Profile:
    """Return a shipped profile, a profile file, or the inline form of the workload file in a YAML file."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return parse_inline_yaml(read_file(path), str(path), InlineProfile)
    return load_profile(name_or_path)


def log_choice(
    log: EngineLog, profile: Profile, budgets: Budgets, max_num_seqs: int | None = None
) -> LogAnswer:
    """Return the open-loop optimum for a log (see open_loop_choice) with what the log says beside it.

    What it says goes before what would be assumed: KV tokens per request, 1 + draft tokens, its own step
    times, and that steps ran without a graph although the list holds one. Sizes are requests, or tokens
    where the server drafts and the log does not say how many. One list serves the log's mixed steps, too,
    where its server did so and the profile has their costs.
    """
    facts, width = log.facts, log.tokens_per_request or 1
    limit = max_num_seqs or facts.max_num_seqs
    logged = max(log.decode_steps, default=1)
    largest = max(logged, limit or 1)
    own = _own_sizes(log, width)
    kv, mean_kv = kv_by_batch(log)
    launch: Launch = "piecewise" if facts.mode == "PIECEWISE" else "graph"
    decode = _decode_costs(profile, kv, width, launch)
    mixed = None
    if facts.mode in ("FULL_AND_PIECEWISE", "PIECEWISE"):
        mixed = _mixed_costs(profile, mean_kv or KV_TOKENS_PER_REQUEST, width)
    if mixed is not None:
        log = replace(log, mixed_steps=_in_units(log.mixed_steps, width))
    if log.tokens_per_request is None:  # one request is 1 + k tokens, of an unknown k
        align = log.multiple_of if budgets.align == 1 else budgets.align
        budgets = replace(budgets, forced_sizes=False, align=align)
    reach = 1 << (largest - 1).bit_length()
    came = _logged_sizes(log, mixed is not None)
    if len(came) > budgets.graphs:  # a sample of many sizes, of which the log of another hour has others
        came = set()
    rules = size_rules_for(
        budgets,
        profile,
        largest,
        LARGEST_MIXED // width if mixed else None,
        reach=reach,
        also=[size for size in {*(own or ()), *came} if size <= MOST_CANDIDATES],
        held=_held(decode, budgets, largest, limit, reach if width == 1 else 0),
    )
    answer = open_loop_choice(log, decode, rules, mixed=mixed, own=own)
    depends = _depends_on_kv(profile, log)
    return replace(
        answer,
        assumed_kv_tokens=KV_TOKENS_PER_REQUEST if depends and mean_kv is None else None,
        logged_kv_tokens=mean_kv if depends else None,
        tokens_per_request=log.tokens_per_request,
        own_times=own_times(log, _predicted(decode, own)),
        contradiction=contradiction(log, own),
    )


def _logged_sizes(log: EngineLog, with_mixed: bool) -> set[int]:
    """Return the sizes of the logged steps that a graph could serve."""
    steps = [log.decode_steps, log.mixed_steps] if with_mixed else [log.decode_steps]
    return {size for counts in steps for size, count in counts.items() if count and size <= LARGEST_MIXED}


def _own_sizes(log: EngineLog, width: int) -> tuple[int, ...] | None:
    """Return the server's sizes in requests: vLLM rounds a list of tokens up to multiples of `width`."""
    own = log.facts.capture_sizes
    if own is None or log.format != "vllm":
        return own
    if log.facts.mode == "NONE":
        return ()
    return tuple(sorted({-(-size // width) for size in own}))


def _in_units(steps: Mapping[int, int], width: int) -> dict[int, int]:
    """Return mixed steps by their tokens in units of one request's, those that graphs could hold."""
    counts: Counter[int] = Counter()
    for tokens, count in steps.items():
        if tokens <= LARGEST_MIXED:
            counts[-(-tokens // width)] += count
    return dict(sorted(counts.items()))


def _held(decode: StepCosts, budgets: Budgets, largest: int, limit: int | None, reach: int) -> list[int]:
    """Return the sizes that the pool must hold: one request, and what holds the largest batch best.

    A server that says what it admits keeps a graph of exactly that. Of one that does not, the largest
    logged batch may take a larger graph where that is faster. A speculating server (`reach` 0) keeps a
    graph for every number of requests it admits, where so many are allowed: a log is a sample, and every
    request it pads by costs all its drafts.
    """
    if limit is None:
        usable = {}
        for size in range(largest, max(reach, largest) + 1):
            with contextlib.suppress(InputError):
                usable[size] = decode.graph(largest, size)
        return [1, min(usable, key=lambda size: (usable[size], size), default=largest)]
    return [*range(1, limit + 1)] if not reach and budgets.graphs >= limit else [1, largest]


def _predicted(decode: StepCosts, own: Sequence[int] | None) -> Callable[[int, bool | None], float]:
    """Return the profile's time of a decode step as the server ran it, in ns."""

    def predicted_ns(batch: int, replayed: bool | None) -> float:
        held = min((size for size in own or () if size >= batch), default=None)
        if replayed is False or (replayed is None and own is not None and held is None):
            return decode.eager(batch)
        return decode.graph(batch, held or batch)

    return predicted_ns


def _decode_costs(
    profile: Profile, kv: Callable[[int], float], width: int, launch: Launch = "graph"
) -> StepCosts:
    """Return the costs of decode steps of so many requests, each with `width` tokens."""
    model = cost_model(profile, "fallback")
    lines: dict[int, StepLine] = {}

    def graph(batch: int, size: int) -> float:
        if size not in lines:
            lines[size] = model.decode_line(launch, size * width)
        return lines[size].ns(round(batch * kv(batch)))

    def eager(batch: int) -> float:
        return model.decode_line("fallback", batch * width).ns(round(batch * kv(batch)))

    return StepCosts(graph, eager)


def _mixed_costs(profile: Profile, kv_per_request: float, width: int) -> StepCosts | None:
    """Return the costs of mixed steps in units of `width` tokens; None if the profile has none.

    They are taken as one running request for every 16 tokens.
    """
    if not profile.has_prefill:
        return None
    model = cost_model(profile, "fallback")

    def plan(tokens: int) -> StepPlan:
        rows = min(tokens // 16, tokens - 1)
        kind = StepKind.MIXED if rows else StepKind.PREFILL
        kv_tokens = round(rows * kv_per_request)
        return StepPlan(kind, rows, None, kv_tokens, (PrefillChunk(-1, tokens - rows, 0, True),))

    return StepCosts(
        lambda units, size: model.piecewise_ns(plan(units * width), [size * width])[0],
        # Where the GPU hides the launches both take as long; a graph is then the one to have.
        lambda units: model.prompt_step_ns(plan(units * width)) * (1 + GRAPH_AT_A_TIE),
    )


def _depends_on_kv(profile: Profile, log: EngineLog) -> bool:
    model = cost_model(profile, "fallback")
    batch = (
        next(batch for batch, steps in log.decode_steps.items() if steps)
        if any(log.decode_steps.values())
        else 1
    )
    try:
        line = model.decode_line("graph", batch)
    except InputError:
        line = model.decode_line("fallback", batch)
    return any(slope != 0 for slope in line.slopes)
