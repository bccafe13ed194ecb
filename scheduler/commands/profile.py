"""`run.py profile show` and `run.py profile import FORMAT`: look at profiles, build them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.analysis.comparison.step_times import profile_curves
from scheduler.catalog.importers.aiconfigurator import CHOICES, import_aiconfigurator
from scheduler.catalog.importers.engine_benchmarks import (
    import_sglang_bench_one_batch,
    import_vllm_bench_latency,
)
from scheduler.catalog.importers.engine_steps.build import LeftOut, Source, import_steps
from scheduler.catalog.importers.llmservingsim import import_llmservingsim
from scheduler.catalog.importers.rows import read_text
from scheduler.catalog.importers.whole_steps import (
    MODES,
    WholeStep,
    import_csv,
    imported_identity,
    whole_step_profile,
)
from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import load_profile, write_profile
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.catalog.profile.profile import Mode
from scheduler.commands.options import (
    AIConfiguratorOptions,
    ImportOptions,
    LLMServingSimOptions,
    SGLangOptions,
    ShowOptions,
    StepsOptions,
)
from scheduler.errors import InputError
from scheduler.report.profile_text import profile_text
from scheduler.report.wording import aligned, percent_text
from scheduler.workload.file.yaml_reader import read_yaml
from scheduler.workload.inputs.door import read_engine_log

LARGEST_SHOWN = 512
MOST_CONTEXT_TOKENS = 10_000_000


def run_show(name_or_path: str, options: ShowOptions) -> int:
    """Print a profile; draw step time against batch size; return 0. Raises InputError."""
    context_tokens = options.context
    if not 1 <= context_tokens <= MOST_CONTEXT_TOKENS:
        raise InputError(f"--context: expected 1 to {MOST_CONTEXT_TOKENS:,} tokens, got {context_tokens}")
    profile = load_profile(name_or_path)
    _show(profile, context_tokens)
    if options.plots:
        from scheduler.report import plots as drawing

        curves = profile_curves(profile, _largest(profile), context_tokens)
        folder = options.out or Path("results") / f"profile-{profile.identity.name}"
        figure = drawing.step_time(curves, title=profile.identity.name)
        drawing.save_png(figure, folder / "step_time.png")
        print(f"wrote {folder / 'step_time.png'}", file=sys.stderr)
    return 0


def run_import(build: Callable[[Mapping[str, Any]], MeasuredProfile], options: ImportOptions) -> int:
    """Build a profile with the `--set` fields, write it, print it and what it assumes; return 0."""
    profile = build(overrides_of(options.settings))
    write_profile(options.output, profile)
    _show(profile, 1024)
    print(f"wrote {options.output}", file=sys.stderr)
    return 0


def run_import_llmservingsim(options: LLMServingSimOptions) -> int:
    """Import LLMServingSim's layer tables; see import_llmservingsim."""

    def build(overrides: Mapping[str, Any]) -> MeasuredProfile:
        return import_llmservingsim(options.dense, options.per_sequence, options.attention, overrides)

    return run_import(build, options)


def run_import_csv(path: Path, options: ImportOptions) -> int:
    """Import a CSV of whole steps; see import_csv."""
    return run_import(lambda overrides: import_csv(path, overrides), options)


def run_import_aiconfigurator(path: Path, options: AIConfiguratorOptions) -> int:
    """Import a decode table; see import_aiconfigurator."""
    choose = {}
    for choice in options.choose:
        column, equals, value = choice.partition("=")
        if not equals or column not in CHOICES:
            raise InputError(f"--choose: expected one of {', '.join(CHOICES)} =VALUE, got {choice!r}")
        choose[column] = value
    return run_import(lambda overrides: import_aiconfigurator(path, choose, overrides), options)


def run_import_vllm(paths: Sequence[Path], options: ImportOptions) -> int:
    """Import `vllm bench latency --output-json` results; see import_vllm_bench_latency."""
    return run_import(lambda overrides: import_vllm_bench_latency(paths, overrides), options)


def run_import_sglang(path: Path, options: SGLangOptions) -> int:
    """Import `sglang.bench_one_batch` results, or the decode steps of a server's log."""
    names: dict[str, Mode] = {}
    for setting in options.modes:
        name, _, text = setting.rpartition("=")
        mode = next((mode for mode in MODES if mode == text), None)
        if not name or mode is None:
            raise InputError(f"--modes: expected RUN_NAME=graph, fallback or eager, got {setting!r}")
        names[name] = mode
    if not read_text(path).lstrip().startswith("{"):
        if names:
            raise InputError(
                "--modes: expected only with results of bench_one_batch; a log says it line by line"
            )
        return run_import(lambda overrides: sglang_log_profile(path, overrides), options)
    return run_import(lambda overrides: import_sglang_bench_one_batch(path, names, overrides), options)


def sglang_log_profile(path: Path, overrides: Mapping[str, Any]) -> CurveProfile:
    """Return the profile of the `Decode batch` lines of an SGLang log; raises InputError.

    A line's step time is its batch (times the tokens accepted) by its throughput; lines after a prompt are
    left out. Without a graph SGLang runs eager. Prompts are not timed in the log, so the profile has none.
    """
    log = read_engine_log(path)
    if log.format != "sglang":
        raise InputError(f"{path}: expected an SGLang log or results of sglang.bench_one_batch")
    steps = [
        WholeStep("graph" if replayed else "eager", batch, log.kv_tokens[batch], times.mean_ms)
        for (batch, replayed), times in log.decode_times.items()
        if replayed is not None and batch in log.kv_tokens
    ]
    if not steps:
        raise InputError(
            f"{path}: expected Decode batch lines with #token, cuda graph and gen throughput; found none"
        )
    identity = imported_identity(path.name, "SGLang")
    if log.facts.version:
        identity = identity.model_copy(update={"engine_version": log.facts.version})
    return whole_step_profile(steps, identity, overrides)


def run_import_steps(runs: Sequence[Path], options: StepsOptions) -> int:
    """Import recorded engine steps; see import_steps."""
    sources = [Source(path) for path in runs]
    sources += [Source(path, grid_only=True) for path in options.grid_of]
    sources += [Source(path, gpu_only=True) for path in options.gpu_of]
    left_out: list[LeftOut] = []

    def build(overrides: Mapping[str, object]) -> MeasuredProfile:
        profile, errors = import_steps(sources, overrides)
        left_out.extend(errors)
        return profile

    run_import(build, options)
    sys.stdout.write(left_out_text(left_out))
    return 0


def left_out_text(left_out: Sequence[LeftOut]) -> str:
    """Return a table of what hand-overs were predicted to take on steps left out of the fit."""
    if not left_out:
        return "steps left out of the fit: too few steps to leave any out\n"
    rows = [["steps left out of the fit", "steps", "mean", "median size"]]
    rows += [
        [entry.kind, f"{entry.steps:,}", percent_text(entry.mean_error), f"{entry.median_size:.1%}"]
        for entry in left_out
    ]
    return "\n".join(line.rstrip() for line in aligned(rows)) + "\n"


def overrides_of(settings: Sequence[str]) -> dict[str, object]:
    """Return the fields of `KEY=VALUE` settings; VALUE is YAML flow, and text under identity."""
    overrides: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set: expected KEY=VALUE, got {setting!r}")
        if key.startswith("identity."):
            overrides[key] = text.strip()
            continue
        value = read_yaml(text, f"--set {key}", lines=False)
        if value.problems:
            raise InputError([f"--set {key}: {problem.text}" for problem in value.problems])
        overrides[key] = value.data
    return overrides


def _show(profile: MeasuredProfile, context_tokens: int) -> None:
    sys.stdout.write(profile_text(profile, profile_curves(profile, _largest(profile), context_tokens)))


def _largest(profile: MeasuredProfile) -> int:
    curves = [profile.curve(mode) for mode in MODES]
    return min(LARGEST_SHOWN, max(curve.sizes[-1] for curve in curves if curve is not None))
