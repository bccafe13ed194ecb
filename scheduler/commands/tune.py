"""`run.py tune`: the best graphs for a workload (closed loop) or for a server's log (open loop)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from scheduler.analysis.comparison.compare import Comparison, Progress, compare
from scheduler.analysis.comparison.kept_runs import Scratch
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.answer import LogAnswer, TuningAnswer
from scheduler.analysis.tuning.assemble import tuning_answer
from scheduler.analysis.tuning.budgets import Budgets
from scheduler.analysis.tuning.checks import FreshRequests
from scheduler.analysis.tuning.closed_loop import tune
from scheduler.analysis.tuning.load_study import study_loads
from scheduler.analysis.tuning.logged_choice import log_choice, profile_of
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.tuning.pool_runs import Evaluator
from scheduler.analysis.tuning.samples import search_and_fresh
from scheduler.analysis.tuning.token_budgets import parse_budgets, token_budgets
from scheduler.analysis.tuning.verdict import is_change, tuning_verdict
from scheduler.analysis.workers import Workers, open_workers
from scheduler.catalog.dispatch.audit import Range, slower_batches
from scheduler.catalog.dispatch.engines import VLLM_RULES, engine_rules
from scheduler.catalog.dispatch.table import GraphMode, Settings
from scheduler.catalog.profile.profile import Profile
from scheduler.commands.options import RunOptions, TuneOptions
from scheduler.commands.run import sampling, workload_profile
from scheduler.commands.tune_drafts import tune_drafts
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.files import check_folder, write_json
from scheduler.report.answer import fewer_graphs
from scheduler.report.engine_flags import PastedPool
from scheduler.report.flags import log_caution, tune_caution, why_no_flag
from scheduler.report.outputs import save_figures
from scheduler.report.progress import progress_bar
from scheduler.report.tune_plot import tuning_figure
from scheduler.report.tune_text import Fewer, tune_json, tune_text
from scheduler.workload.file.loader import load_workload
from scheduler.workload.inputs.door import read_engine_log, read_input
from scheduler.workload.inputs.found import Use
from scheduler.workload.inputs.head import Told
from scheduler.workload.schema import Workload
from scheduler.workload.server_logs.engine_log import EngineLog

MIB = 1 << 20
MOST_GRAPHS = 10_000
MOST_LOADS = 12
MOST_DRAFTS = 1_000
CONFIRMING = "the best list on fresh requests"


def run_tune(workload_file: Path | None, options: TuneOptions) -> int:
    """Tune, write tune.json (and the curve's plot), print the card or the JSON; return 0.

    Raises InputError for options that do not fit together.
    """
    if not 0 <= options.graphs <= MOST_GRAPHS:
        raise InputError(f"--graphs: expected 0 to {MOST_GRAPHS:,}, got {options.graphs}")
    if not 1 <= options.align <= MOST_GRAPHS:
        raise InputError(f"--align: expected 1 to {MOST_GRAPHS:,}, got {options.align}")
    answer: TuningAnswer | LogAnswer
    fewer: Fewer | None
    log_file = _log_file(options)
    if log_file is None and (workload_file is not None or options.source_file is not None):
        workload = load_workload(workload_file, options.overrides, options.trace, options.source_file)
        if workload.engine.speculation is not None:
            return tune_drafts(workload, options)
    if log_file is None and (workload_file is not None or options.source_file is not None):
        answer, pasted, fewer, name = _closed_loop(workload_file, options)
    elif log_file is not None and workload_file is None:
        answer, pasted, name = _from_log(log_file, options)
        fewer = None
    else:
        raise InputError("tune: expected a workload file, or --from-log FILE with --profile, not both")
    folder = options.out or Path("results") / name
    write_json(folder / "tune.json", tune_json(answer, pasted, fewer))
    if options.plots and isinstance(answer, TuningAnswer):
        save_figures({"tune": tuning_figure(answer)}, folder)
    if options.json:
        sys.stdout.write((folder / "tune.json").read_text(encoding="utf-8"))
    else:
        sys.stdout.write(tune_text(answer, pasted, fewer))
    return 0


def _log_file(options: TuneOptions) -> Path | None:
    """Return the file whose logged steps are the question, None where requests are simulated."""
    if options.from_log is not None or options.source_file is None:
        return options.from_log
    return options.source_file if Use.BATCHES in read_input(options.source_file).uses else None


def _closed_loop(
    workload_file: Path | None, options: TuneOptions
) -> tuple[TuningAnswer, PastedPool, Fewer | None, str]:
    workload = load_workload(workload_file, options.overrides, options.trace, options.source_file)
    name = f"{workload.name}-tune"
    folder = options.out or Path("results") / name
    check_folder(folder)
    goal, budgets, factors = (
        objective(options.objective),
        parse_budgets(options.budgets),
        _loads(options.loads),
    )
    search, held_out, on = search_and_fresh(workload, options.replications)
    fewer = None
    with (
        Scratch(folder) as scratch,
        open_workers(options.workers) as workers,
        progress_bar() as progress,
    ):
        evaluator = Evaluator(
            workload, workload_profile(workload, options.eager_ms), goal, progress, workers, factors
        )
        own = workload_pool(workload.pool, workload.engine, evaluator.profile).pool
        width, align = _request_width(options, own)
        evaluator.plan.expected[CONFIRMING] = 2 * evaluator.work(held_out)
        tuning = tune(evaluator, search, replace(_budgets(options), align=align, tokens_per_request=width))
        fresh = FreshRequests(evaluator, held_out, on)
        over = None
        evaluator.plan.enter(CONFIRMING)
        if evaluator.cost(tuning.own.pool) is not None:
            over = fresh.over_loads(tuning.best.pool, tuning.own.pool)
        beyond = None if over is None else fresh.beyond(tuning.best.pool, tuning.own.pool, over)
        verdict = tuning_verdict(tuning, fresh, over, beyond)
        tried = token_budgets(tuning, budgets)
        study = None
        if over is not None:  # asked of the card's requests, by the card's function: one answer to both
            comparison = _own_pool(workload, evaluator, progress, workers, scratch)
            study, fewer = comparison.load_study, _fewer(comparison, width - 1)
        answer = tuning_answer(tuning, fresh, over, verdict, tried, study, beyond)
    advised = tuning.best.pool if is_change(verdict) else own
    return answer, _pasted(workload, evaluator.profile, own, advised, width - 1), fewer, name


def _own_pool(
    workload: Workload, evaluator: Evaluator, progress: Progress, workers: Workers | None, scratch: Scratch
) -> Comparison:
    """Return the workload's own pool against eager, as the main job runs them, with fewer graphs judged."""
    profile = evaluator.profile
    replications, warmup = sampling(workload, RunOptions(), is_real=False)
    comparison = compare(
        workload,
        profile,
        [workload_pool(workload.pool, workload.engine, profile)],
        replications=replications,
        warmup_share=warmup,
        progress=progress,
        workers=workers,
        scratch=scratch,
    )
    comparison.load_study = study_loads(comparison, progress, workers, first_alone=True)
    if comparison.failure == "interrupted":
        raise KeyboardInterrupt
    return comparison


def _fewer(comparison: Comparison, draft_tokens: int) -> Fewer:
    """Return the card's words on fewer graphs, and what to paste where the card gives a flag, too."""
    study, own = comparison.load_study, comparison.pools[0].variant.pool
    found = None if study is None else study.fewer
    if found is None or not found.would_do:
        return Fewer(fewer_graphs(comparison))
    smaller = _pasted(comparison.workload, comparison.profile, own, own.with_sizes(found.sizes), draft_tokens)
    why_not = why_no_flag(comparison)
    return Fewer(fewer_graphs(comparison), None if why_not else smaller, why_not)


def _pasted(
    workload: Workload, profile: Profile, own: GraphPool, pool: GraphPool, draft_tokens: int
) -> PastedPool:
    """Return a pool to be pasted instead of the own one."""
    engine, tokens = workload.engine, workload.engine.prefill_tokens_per_step
    slower = slower_batches(own.table(engine.max_num_seqs, tokens), pool.table(engine.max_num_seqs, tokens))
    return PastedPool(
        pool.sizes,
        pool.padding,
        pool.piecewise,
        engine.max_num_seqs,
        engine.max_num_batched_tokens,
        draft_tokens=draft_tokens,
        full=pool.full,
        slower=tuple(slower),
        caution=tune_caution(workload, profile),
    )


def _loads(text: str) -> tuple[float, ...]:
    """Return the loads of `--loads`, ascending, the workload's own among them; raises InputError."""
    try:
        factors = {float(word) for word in text.replace(",", " ").split()} | {1.0}
    except ValueError:
        raise InputError(f"--loads {text[:40]}: expected multiples of the load, as 0.5,1,2") from None
    if len(factors) > MOST_LOADS or not all(0.01 <= factor <= 100 for factor in factors):
        raise InputError(f"--loads {text[:40]}: expected at most {MOST_LOADS} from 0.01 to 100")
    return tuple(sorted(factors))


def _request_width(options: TuneOptions, own: GraphPool) -> tuple[int, int]:
    """Return the tokens of one request in the pasted list, and the multiple of requests to choose among.

    vLLM's lists count tokens: what --align asks for there is the width of a request.
    """
    counts_tokens = engine_rules(own.rules).sizes_are_tokens
    drafts = _drafts(options)
    if drafts is not None:
        return 1 + drafts, 1 if counts_tokens else options.align
    return (options.align, 1) if counts_tokens else (1, options.align)


def _drafts(options: TuneOptions) -> int | None:
    text = options.draft_tokens
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= MOST_DRAFTS):
        several = "; several numbers need engine.speculation in a workload" if "," in text else ""
        raise InputError(f"--draft-tokens: expected 0 to {MOST_DRAFTS}, got {text[:40]}{several}")
    return int(text)


def _budgets(options: TuneOptions) -> Budgets:
    for name, value in (
        ("--max-memory-mib", options.max_memory_mib),
        ("--max-capture-s", options.max_capture_s),
    ):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"{name}: expected a number of at least 0, got {value}")
    memory = None if options.max_memory_mib is None else options.max_memory_mib * MIB
    return Budgets(
        options.graphs,
        memory,
        options.max_capture_s,
        options.forced_sizes,
        options.align,
        options.candidates,
    )


def _from_log(log_file: Path, options: TuneOptions) -> tuple[LogAnswer, PastedPool, str]:
    if options.profile is None:
        raise InputError("--from-log: expected --profile NAME or FILE beside it")
    check_folder(options.out or Path("results"))
    log = read_engine_log(log_file, Told(options.max_num_seqs, _drafts(options)))
    profile = profile_of(options.profile)
    answer = log_choice(log, profile, _budgets(options), options.max_num_seqs)
    facts = log.facts
    limit = options.max_num_seqs or facts.max_num_seqs
    width = (log.tokens_per_request or 1) if log.format == "vllm" else 1
    # The answer counts requests; what is pasted counts tokens above max_num_seqs.
    sizes = [size if limit is None or size <= limit else size * width for size in answer.sizes]
    pasted = PastedPool(
        tuple(sizes),
        piecewise=answer.mode != "decode_only",
        full=answer.mode != "piecewise",
        max_num_seqs=limit,
        max_num_batched_tokens=facts.max_num_batched_tokens,
        draft_tokens=width - 1,
        caution=log_caution(log, profile),
    )
    pasted = replace(pasted, slower=_slower_than_logged(log, pasted))
    return answer, pasted, f"{log_file.name.split('.')[0] or 'log'}-tune"


def _slower_than_logged(log: EngineLog, pasted: PastedPool) -> tuple[Range, ...]:
    """Return the batches that a pasted list sends a slower way than the server's own, if both are known."""
    facts, seqs = log.facts, pasted.max_num_seqs
    own = facts.capture_sizes
    if log.format != "vllm" or not own or not seqs or not pasted.sizes:
        return ()
    tokens = pasted.vllm_sizes
    mode: GraphMode = "full_decode_only"
    if pasted.piecewise:
        mode = "full_and_piecewise" if pasted.full else "piecewise"
    version = facts.version if facts.version and "." in facts.version else None
    rules = engine_rules(VLLM_RULES if version is None else f"vllm=={version}", facts.runner or "v2")
    budget = max(facts.max_num_batched_tokens or 0, seqs * (1 + pasted.draft_tokens), *own, *tokens)
    before, after = (
        rules.table(Settings(seqs, budget, mode, sizes, pasted.draft_tokens)) for sizes in (own, tokens)
    )
    return tuple(slower_batches(before, after))
