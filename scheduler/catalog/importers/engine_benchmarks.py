"""Profiles from the engines' own latency benchmarks, run with and without graphs.

`vllm bench latency --output-json` (vllm/benchmarks/latency.py, read at 00cae075) writes avg_latency,
latencies and percentiles in seconds, but not what was run, so the file's name says it:
`graph-b8-i1024-o129.json` is batch 8, 1,024 tokens in, 129 out. A step's time is the difference between
two output lengths. `sglang.bench_one_batch --result-filename` (read at 00944150) appends one JSON line per
case with batch_size, input_len, output_len, prefill_latency and median_decode_latency; `--run-name` says the
mode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from scheduler.catalog.importers.rows import read_text
from scheduler.catalog.importers.whole_steps import MODES, WholeStep, imported_identity, whole_step_profile
from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.profile import Mode
from scheduler.errors import InputError

FILE_NAME = re.compile(r"(graph|fallback|eager)-b(\d{1,6})-i(\d{1,7})-o(\d{1,7})\.json")
Cases = dict[tuple[Mode, int, int], dict[int, float]]


def import_vllm_bench_latency(
    paths: Sequence[Path], overrides: Mapping[str, Any] | None = None
) -> CurveProfile:
    """Return the profile of `vllm bench latency` results, at least two output lengths per case.

    With an output length of 1 the latency is the prompt's, which gives prefill (of one prompt per batch).
    """
    cases: Cases = {}
    errors = []
    for path in paths:
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            errors.append(
                f"{path}: expected a name like graph-b8-i1024-o129.json (mode, batch, input, output)"
            )
            continue
        mode = _mode(match[1], str(path))
        batch, prompt, output = (int(text) for text in match.groups()[1:])
        if not batch or not prompt or not output:
            errors.append(f"{path}: batch, input and output of at least 1 expected in the name")
            continue
        cases.setdefault((mode, batch, prompt), {})[output] = _median_latency_s(path)
    steps: list[WholeStep] = []
    for (mode, batch, prompt), latencies in sorted(cases.items()):
        if len(latencies) < 2:
            errors.append(
                f"{mode} b{batch} i{prompt}: one output length only; a step is the difference between two"
            )
            continue
        steps += _steps_between(mode, batch, prompt, sorted(latencies.items()))
        if batch == 1 and 1 in latencies:
            steps.append(WholeStep(mode, 0, 0.0, latencies[1] * 1e3, prompt))
    slow = [step for step in steps if step.step_ms <= 0]
    errors += [f"{step.mode} b{step.batch}: a longer output took no longer; repeat it" for step in slow]
    if errors or not steps:
        raise InputError(errors or "no vllm bench latency results given")
    return whole_step_profile(steps, imported_identity("vllm bench latency", "vLLM"), overrides)


def _steps_between(
    mode: Mode, batch: int, prompt: int, latencies: Sequence[tuple[int, float]]
) -> list[WholeStep]:
    """Return a step per pair of neighbouring output lengths, at the mean context of the steps between."""
    steps = []
    for (few, quick), (many, slow) in pairwise(latencies):
        # Token n is made by the step that finds prompt + n - 2 tokens cached; the mean over n = few+1 … many.
        context = prompt + (few + 1 + many) / 2 - 2
        steps.append(WholeStep(mode, batch, context, (slow - quick) / (many - few) * 1e3))
    return steps


def _median_latency_s(path: Path) -> float:
    try:
        result = json.loads(read_text(path))
    except ValueError:
        raise InputError(f"{path}: not JSON") from None
    latencies = result.get("latencies") if isinstance(result, dict) else None
    if (
        not isinstance(latencies, list)
        or not latencies
        or not all(_is_positive(value) for value in latencies)
    ):
        raise InputError(f"{path}: latencies: expected a list of seconds, as vllm bench latency writes it")
    return float(median(latencies))


def import_sglang_bench_one_batch(
    path: Path, modes: Mapping[str, Mode] | None = None, overrides: Mapping[str, Any] | None = None
) -> CurveProfile:
    """Return the profile of a bench_one_batch result file.

    `modes` maps a run name to a mode; a run named graph, fallback or eager needs no entry.
    """
    steps: list[WholeStep] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            steps += _sglang_steps(line, f"{path}: line {number}", modes or {})
    if not steps:
        raise InputError(f"{path}: no results")
    return whole_step_profile(steps, imported_identity("sglang.bench_one_batch", "SGLang"), overrides)


def _sglang_steps(line: str, label: str, modes: Mapping[str, Mode]) -> list[WholeStep]:
    try:
        result = json.loads(line)
    except ValueError:
        raise InputError(f"{label}: not JSON") from None
    if not isinstance(result, dict):
        raise InputError(f"{label}: expected an object, as bench_one_batch writes it")
    name = str(result.get("run_name"))
    mode = modes.get(name) or _mode(name, label)
    sizes = [result.get(key) for key in ("batch_size", "input_len", "output_len")]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InputError(
            f"{label}: batch_size, input_len and output_len: expected whole numbers of at least 1"
        )
    batch, prompt, output = (int(size) for size in sizes if size is not None)
    steps = []
    prefill_s, decode_s = result.get("prefill_latency"), result.get("median_decode_latency")
    if not _is_positive(prefill_s) or (output > 1 and not _is_positive(decode_s)):
        raise InputError(f"{label}: prefill_latency and median_decode_latency: expected seconds above 0")
    steps.append(WholeStep(mode, 0, 0.0, float(prefill_s or 0.0) * 1e3, batch * prompt, prompts=batch))
    if output > 1:  # output - 1 steps find prompt … prompt + output - 2 tokens cached
        context = prompt + (output - 2) / 2
        steps.append(WholeStep(mode, batch, context, float(decode_s or 0.0) * 1e3))
    return steps


def _mode(name: str, label: str) -> Mode:
    for mode in MODES:
        if name == mode:
            return mode
    raise InputError(
        f"{label}: run name {name[:40]!r}: expected graph, fallback or eager (or --modes {name[:40]}=graph)"
    )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
