"""From a server's log and a profile to the best sizes; what the log does not say is assumed and noted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scheduler.analysis.tuning.answer import LogAnswer
from scheduler.analysis.tuning.budgets import Budgets, size_rules_for
from scheduler.analysis.tuning.open_loop import StepCosts, open_loop_choice
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.step_lines import StepLine
from scheduler.simulate import AnyProfile
from scheduler.workload.file.loader import parse_inline_yaml, read_file
from scheduler.workload.server_logs.engine_log import EngineLog

KV_TOKENS = 1024  # of every sequence, where step times depend on what no log holds
LARGEST_MIXED = 512


def profile_of(name_or_path: str) -> AnyProfile:
    """Return a shipped profile, a profile file, or the inline form of the workload file in a YAML file."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return parse_inline_yaml(read_file(path), str(path), InlineProfile)
    return load_profile(name_or_path)


def log_choice(
    log: EngineLog,
    profile: AnyProfile,
    budgets: Budgets,
    max_num_seqs: int | None = None,
) -> LogAnswer:
    """Return the open-loop optimum for a log (see open_loop_choice) and what was assumed for it.

    Logs hold no KV lengths: where step times depend on them, every sequence is taken to hold KV_TOKENS.
    One list serves the log's mixed steps, too, where its server did so and the
    profile has their costs.
    """
    facts = log.facts
    largest = max(max(log.decode_steps, default=1), max_num_seqs or facts.max_num_seqs or 1)
    mixed = _mixed_costs(profile) if facts.mode == "FULL_AND_PIECEWISE" else None
    if mixed is not None:
        small = {tokens: steps for tokens, steps in log.mixed_steps.items() if tokens <= LARGEST_MIXED}
        log = EngineLog(log.format, log.decode_steps, small, facts, log.notes)
    rules = size_rules_for(budgets, profile, largest, LARGEST_MIXED if mixed else None)
    answer = open_loop_choice(log, _decode_costs(profile), rules, mixed=mixed)
    assumed = KV_TOKENS if _depends_on_kv(profile, log) else None
    return replace(answer, assumed_kv_tokens=assumed)


def _decode_costs(profile: AnyProfile) -> StepCosts:
    model = cost_model(profile, "fallback")
    lines: dict[int, StepLine] = {}

    def graph(batch: int, size: int) -> float:
        if size not in lines:
            lines[size] = model.decode_line("graph", size)
        return lines[size].ns(batch * KV_TOKENS)

    return StepCosts(graph, lambda batch: model.decode_line("fallback", batch).ns(batch * KV_TOKENS))


def _mixed_costs(profile: AnyProfile) -> StepCosts | None:
    """Return the costs of mixed steps, taken as one running sequence for every 16 tokens; None if unknown."""
    if not profile.has_prefill:
        return None
    model = cost_model(profile, "fallback")

    def plan(tokens: int) -> StepPlan:
        rows = min(tokens // 16, tokens - 1)
        kind = StepKind.MIXED if rows else StepKind.PREFILL
        return StepPlan(kind, rows, None, rows * KV_TOKENS, (PrefillChunk(-1, tokens - rows, 0, True),))

    return StepCosts(
        lambda tokens, size: model.piecewise_ns(plan(tokens), [size])[0],
        lambda tokens: float(model.run(plan(tokens))),
    )


def _depends_on_kv(profile: AnyProfile, log: EngineLog) -> bool:
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
