"""`run.py WORKLOAD`: the workload's pool, further pools and pure eager on the same requests."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scheduler.analysis.comparison.compare import Comparison, compare
from scheduler.analysis.comparison.kept_runs import Scratch
from scheduler.analysis.comparison.pools import NamedPool, named_pool, workload_pool
from scheduler.analysis.tuning.draft_study import compared_drafts
from scheduler.analysis.tuning.load_study import study_loads
from scheduler.analysis.workers import open_workers_beside
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.profile import Profile
from scheduler.commands.options import Compared, RunOptions
from scheduler.errors import InputError
from scheduler.executors.execution import Execution, logged_execution, torch_execution
from scheduler.executors.real.availability import require_device
from scheduler.files import check_file, check_folder, write_text
from scheduler.report.card import card_text
from scheduler.report.outputs import write_results
from scheduler.report.progress import progress_bar
from scheduler.report.timeline import window_of, write_timeline
from scheduler.workload.arrivals import TraceArrivals
from scheduler.workload.file.loader import load_workload
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

SYNTHETIC_REPLICATIONS = 5
SYNTHETIC_WARMUP = 0.1
MOST_DRAWN = 10**8


def run_main_job(workload_file: Path | None, options: RunOptions) -> int:
    """Compare, write the result folder, print the card (or summary.json); return the exit status."""
    started = time.monotonic()
    require_partners(options)
    workload = load_workload(workload_file, options.overrides, options.trace, options.source_file)
    profile = workload_profile(workload, options.eager_ms)
    pools = chosen_pools(workload, profile, options.pools)
    replications, warmup = sampling(workload, options, is_real=options.executor != "model")
    folder = options.out or Path("results") / workload.name
    check_folder(folder, ("results.json", "summary.json", "requests.npz", "steps.npz", "run.log"))
    if options.timeline is not None:
        check_file(options.timeline)
    window_s = None if options.window is None else window_of(options.window)
    with Scratch(folder) as scratch:
        with open_workers_beside(options.workers) as workers, progress_bar() as progress:
            comparison = compare(
                workload,
                profile,
                pools,
                replications=replications,
                warmup_share=warmup,
                open_execution=execution_opener(workload, pools, options),
                progress=progress,
                workers=workers,
                scratch=scratch,
            )
            comparison.load_study = study_loads(comparison, progress, workers)
            comparison.draft_study = compared_drafts(comparison, progress, workers)
        command, executor = command_line(workload_file, options), str(options.executor)
        execution = comparison.execution
        if execution is not None:
            if options.executor == "torch":
                execution.facts["command"] = command
                execution.write_log(options.step_log or folder / "steps.jsonl")
            # A step log repeats the run that wrote it, to the byte: its results say what executed the steps.
            command, executor = execution.fact("command", command), execution.fact("executor", executor)
        write_results(comparison, folder, command=command, executor=executor, draw=options.plots)
        if options.timeline is not None:
            write_timeline(comparison, options.timeline, window_s)
        if options.json:
            sys.stdout.write((folder / "summary.json").read_text(encoding="utf-8"))
        else:
            sys.stdout.write(card_text(comparison, full=options.full))
    _write_log(folder, started)
    return exit_status(comparison)


def require_partners(options: RunOptions) -> None:
    """Raise InputError for options that would do nothing without another one."""
    lines = [
        f"{name}: expected only with {partner}"
        for name, value, partner, is_there in (
            ("--window", options.window, "--timeline FILE", options.timeline is not None),
            ("--device", options.device, "--executor torch", options.executor == "torch"),
            ("--model", options.model, "--executor torch", options.executor == "torch"),
            ("--step-log", options.step_log, "--executor torch or log", options.executor != "model"),
        )
        if value is not None and not is_there
    ]
    if lines:
        raise InputError(lines)


def command_line(workload_file: Path | None, options: RunOptions) -> str:
    """Return the command that repeats the run, without the result folder."""
    words = ["python", "run.py", *([] if workload_file is None else [str(workload_file)])]
    for name, values in (("--set", options.overrides), ("--pool", options.pools)):
        words += [word for value in values for word in (name, value)]
    for name, value in (
        ("--from", options.source_file),
        ("--trace", options.trace),
        ("--replications", options.replications),
        ("--warmup", options.warmup),
        ("--eager-ms", options.eager_ms),
        ("--step-log", options.step_log),
    ):
        words += [] if value is None else [name, str(value)]
    if options.executor != "model":
        words += ["--executor", options.executor]
    if options.executor == "torch":
        words += ["--device", options.device or "cpu", *(["--model", options.model] if options.model else [])]
    return shlex.join(words)


def _write_log(folder: Path, started: float) -> None:
    """Keep what differs from run to run (date, host, time taken) out of the results, in run.log."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    took = time.monotonic() - started
    host = f"{platform.node()}, Python {platform.python_version()}"
    write_text(folder / "run.log", f"{now} {host}: {took:.1f} s\n")


def workload_profile(workload: Workload, eager_ms: float | None = None) -> Profile:
    """Return the profile a workload names, or the one written inside it; raises InputError.

    With `eager_ms` it is the profile on the user's own host.
    """
    profile: Profile | str = workload.engine.profile
    if isinstance(profile, str):
        profile = load_profile(str(workload.profile_path or profile))
    return profile if eager_ms is None else profile.with_eager_ms(eager_ms)


def chosen_pools(workload: Workload, profile: Profile, further: tuple[str, ...]) -> list[NamedPool]:
    """Return the workload's own pool and those of `--pool`, each name once."""
    own = workload_pool(workload.pool, workload.engine, profile)
    pools = [own, *(named_pool(text, workload.engine, profile, own.pool) for text in further)]
    names = [pool.name for pool in pools]
    for name in names:
        if names.count(name) > 1 or name == "eager":
            raise InputError(f"--pool {name}: expected a name that is not taken yet; give each pool once")
    return pools


def execution_opener(
    workload: Workload, pools: Sequence[NamedPool], options: RunOptions
) -> Callable[[list[Requests]], Execution] | None:
    """Return what opens real execution or the step log once the requests are drawn; None for the model."""
    if options.executor == "log":
        if options.step_log is None:
            raise InputError("--executor log: expected --step-log FILE, as --executor torch wrote it")
        path = options.step_log
        return lambda requests: logged_execution(path)
    if options.executor == "model":
        return None
    engine = workload.engine
    if engine.draft_tokens:
        raise InputError("--executor torch: expected no engine.speculation; drafts are not executed for real")
    device = options.device or "cpu"
    require_device(device)
    model = options.model or ("tiny" if device == "cpu" else "qwen3-0.6b")
    return lambda requests: torch_execution(
        model=model,
        device=device,
        max_num_seqs=engine.max_num_seqs,
        max_context=max(int((drawn.prompt_tokens + drawn.output_tokens).max()) for drawn in requests),
        capture_sizes=sorted({size for pool in pools for size in pool.pool.sizes}),
        prefilled=engine.policy == "decode_only",
    )


def sampling(workload: Workload, options: Compared, *, is_real: bool) -> tuple[int, float]:
    """Return the number of replications and the warm-up share: a trace is one population, never cut.

    One replication is the default where steps are executed for real or repeated from a log. Raises
    InputError.
    """
    is_trace = workload.happened_once
    replications = options.replications
    if replications is None:
        replications = 1 if is_trace or is_real else SYNTHETIC_REPLICATIONS
    if not 1 <= replications <= 10_000:
        raise InputError(f"--replications: expected 1 to 10,000, got {replications}")
    is_fixed = all(workload.lengths_from_trace) or not isinstance(workload.arrivals, TraceArrivals)
    if is_trace and replications > 1 and is_fixed:
        raise InputError(
            "--replications: expected 1 with recorded requests (they are the same in every one), "
            f"got {replications}"
        )
    if replications * (workload.requests or 1) > MOST_DRAWN:
        raise InputError(
            f"--replications: expected at most {MOST_DRAWN:,} requests in all, "
            f"got {workload.requests:,} × {replications:,}"
        )
    warmup = options.warmup if options.warmup is not None else (0.0 if is_trace else SYNTHETIC_WARMUP)
    if not 0 <= warmup < 1:
        raise InputError(f"--warmup: expected a share from 0 to below 1, got {warmup:g}")
    return replications, warmup


def exit_status(comparison: Comparison) -> int:
    """Return 0, 130 after Ctrl-C, 3 after an executor's failure."""
    if comparison.failure is None:
        return 0
    return 130 if comparison.failure == "interrupted" else 3
