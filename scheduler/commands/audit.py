"""`run.py audit`: which graph every batch really takes, by the engine's own rules; no profile is needed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from scheduler.catalog.dispatch.audit import Audit, audit
from scheduler.catalog.dispatch.engines import EngineRules, engine_rules
from scheduler.catalog.dispatch.sglang import DRAFTING_REQUESTS
from scheduler.catalog.dispatch.table import SPEED, GraphMode, Kind, Settings
from scheduler.commands.options import AuditOptions
from scheduler.errors import InputError
from scheduler.report.audit_text import audit_text, start_up_text
from scheduler.workload.server_logs.start_up import StartUpFacts

FAILED = 1
MOST_SEQS, MOST_TOKENS, MOST_DRAFTS = 100_000, 1_000_000, 1_000
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class _Known:
    """What a workload file or a log says; options on the command line come before it."""

    engine: str | None = None
    runner: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    sizes: tuple[int, ...] | None = None
    mode: GraphMode | None = None
    draft_tokens: int | None = None
    padding: bool | None = None
    source: str = "the command line"
    start_up: StartUpFacts | None = None


def run_audit(workload_file: Path | None, options: AuditOptions) -> int:
    """Print the audit as text or JSON; return 1 where `--fail-on` says so, else 0. Raises InputError."""
    known = _known(workload_file, options)
    rules = _rules(known, options)
    found = audit(rules, _settings(rules, known, options))
    if options.json:
        sys.stdout.write(json.dumps(routes_of(found), separators=(",", ":")) + "\n")
    else:
        sys.stdout.write(audit_text(found))
        if known.start_up is not None:
            sys.stdout.write(start_up_text(found, known.start_up))
    limits: dict[str, Kind] = {"none": "NONE", "piecewise": "PIECEWISE"}
    if options.fail_on is None:
        return 0
    return FAILED if SPEED[found.slowest] >= SPEED[limits[options.fail_on]] else 0


def routes_of(found: Audit) -> dict[str, object]:
    """Return every route: decode batches from 1 on, steps with prompts by their tokens."""
    budget = found.settings.max_num_batched_tokens
    return {
        "decode": [[kind, tokens] for kind, tokens in found.table.decode],
        "mixed": {str(tokens): list(found.table.mixed_route(tokens)) for tokens in range(1, budget + 1)},
    }


def _known(workload_file: Path | None, options: AuditOptions) -> _Known:
    """Return what is known without the options; raises InputError."""
    if workload_file is not None and options.from_log is not None:
        raise InputError("audit: expected a workload file or --from-log FILE, not both")
    if workload_file is not None:
        return _of_workload(workload_file)
    return _Known() if options.from_log is None else _of_log(options.from_log)


def _rules(known: _Known, options: AuditOptions) -> EngineRules:
    engine = options.engine or known.engine
    if engine is None:
        raise InputError(f"--engine: expected a name and release as vllm==0.33.0; {known.source} names none")
    runner = options.runner or ("v1" if known.runner == "v1" else "v2")
    try:
        return engine_rules(engine, runner)
    except InputError as error:
        raise InputError(f"--{line}" for line in error.lines) from None


def _settings(rules: EngineRules, known: _Known, options: AuditOptions) -> Settings:
    drafts = _first(options.draft_tokens, known.draft_tokens or 0, "--draft-tokens", 0, MOST_DRAFTS, known)
    limit = known.max_num_seqs
    if limit is None and rules.engine == "sglang" and drafts:
        limit = DRAFTING_REQUESTS
    seqs = _first(options.max_num_seqs, limit, "--max-num-seqs", 1, MOST_SEQS, known)
    tokens = _first(
        options.max_num_batched_tokens, known.max_num_batched_tokens, "--max-num-batched-tokens", 1,
        MOST_TOKENS, known,
    )  # fmt: skip
    requests = _first(options.mixed_requests, None, "--mixed-requests", 1, MOST_SEQS, known)
    sizes = known.sizes if options.capture_sizes is None else _sizes(options.capture_sizes)
    mode = options.mode or known.mode or rules.default_mode
    if sizes == ():
        mode, sizes = "none", None
    padding = options.padding
    if padding is None:
        padding = rules.engine != "trtllm" if known.padding is None else known.padding
    if rules.engine == "vllm" and not padding:
        raise InputError("--no-padding: expected padding; vLLM always pads to the next size")
    gpu = options.gpu_memory_gib
    if gpu is not None and not 0 < gpu <= 10_000:
        raise InputError(f"--gpu-memory-gib: expected more than 0, at most 10,000, got {gpu:g}")
    return Settings(
        seqs,
        tokens,
        mode,
        sizes,
        drafts,
        padding,
        requests,
        gpu_memory_bytes=None if gpu is None else round(gpu * GIB),
        tensor_parallel=_first(options.tensor_parallel, None, "--tensor-parallel", 1, 1024, known),
        blackwell=options.blackwell,
    )


def _first(given: int | None, known: int | None, name: str, least: int, most: int, source: _Known) -> int:
    value = known if given is None else given
    if value is None:
        raise InputError(
            f"{name}: expected a number from {least} to {most:,}; {source.source} does not say it"
        )
    if not least <= value <= most:
        raise InputError(f"{name}: expected {least} to {most:,}, got {value}")
    return value


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
        raise InputError(f"--capture-sizes: expected sizes as 1,2,4,8, got {text[:60]!r}")
    sizes = tuple(sorted({int(part) for part in parts}))
    if sizes and not 1 <= sizes[0] <= sizes[-1] <= MOST_TOKENS:
        raise InputError(f"--capture-sizes: expected sizes from 1 to {MOST_TOKENS:,}, got {text[:60]!r}")
    return sizes


def _of_workload(path: Path) -> _Known:
    """Return the engine limits and the pool of a workload file."""
    from scheduler.analysis.comparison.pools import workload_pool
    from scheduler.commands.run import workload_profile
    from scheduler.workload.file.loader import load_workload

    workload = load_workload(path)
    engine = workload.engine
    pool = workload_pool(workload.pool, engine, workload_profile(workload)).pool
    return _Known(
        pool.rules,
        None,
        engine.max_num_seqs,
        engine.prefill_tokens_per_step,
        pool.sizes,
        pool.mode,
        pool.draft_tokens,
        padding=pool.padding,
        source=str(path),
    )


def _of_log(path: Path) -> _Known:
    """Return what a server's start-up lines say; raises InputError where they say nothing of graphs."""
    from scheduler.workload.inputs.door import read_input

    found = read_input(path)
    log = found.log
    if log is None or (log.facts.capture_sizes is None and log.facts.mode is None):
        raise InputError(
            f"{path}: {found.title}: expected start-up lines with capture sizes or the CUDA graph mode; "
            "found neither"
        )
    facts = log.facts
    name = facts.engine or {"sglang": "sglang", "tensorrt-llm": "trtllm"}.get(log.format, "vllm")
    mode = None if facts.mode is None else facts.mode.lower()
    return _Known(
        f"{name}=={facts.version}" if facts.version else name,
        facts.runner,
        facts.max_num_seqs,
        facts.max_num_batched_tokens,
        facts.capture_sizes,
        next((known for known in get_args(GraphMode) if known == mode), None),
        facts.draft_tokens if log.tokens_per_request in (None, 1) else log.tokens_per_request - 1,
        source=str(path),
        start_up=facts,
    )
