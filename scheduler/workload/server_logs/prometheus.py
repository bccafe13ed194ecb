"""Prometheus text of vLLM and SGLang (GET /metrics): what a server counted since it started.

Names as vLLM 0.33.0 (vllm/v1/metrics/loggers.py, v1/spec_decode/metrics.py) and SGLang 0.5.23
(sglang/srt/observability/metrics_collector.py) export them. Where the text holds several scrapes, one
after the other, the last value of a series counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from scheduler.errors import InputError
from scheduler.workload.server_logs.engine_log import MOST_STEPS, EngineLog
from scheduler.workload.server_logs.start_up import StartUpFacts

NAME = "Prometheus text"
COMMAND = "curl http://SERVER/metrics"
MOST_SERIES = 200_000
ASSUMED_MAX_NUM_SEQS = 256
_SAMPLE = re.compile(r"((?:vllm|sglang)[:_]\w+)(\{.*\})?\s+([0-9.eE+-]+|NaN|[+-]?Inf)(?:\s+-?\d+)?\s*$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]


def is_prometheus(line: str) -> bool:
    """Tell whether a line starts such a text."""
    return line.startswith(("# HELP ", "# TYPE ")) or _SAMPLE.match(line) is not None


def read_prometheus(
    path: Path, lines: Iterable[tuple[int, str]], max_num_seqs: int | None = None
) -> EngineLog:
    """Read a scrape; raises InputError where it holds nothing of vLLM or SGLang."""
    series: dict[tuple[str, Labels], float] = {}
    bad: list[int] = []
    for number, line in lines:
        if line.startswith("#") or not line.startswith(("vllm", "sglang")):
            continue
        sample = _SAMPLE.match(line)
        value = _value(sample[3]) if sample else None
        if sample is None or value is None:
            bad.append(number)
            continue
        labels = tuple(sorted(_LABEL.findall(sample[2] or "")))
        series[sample[1].replace("_", ":", 1) if ":" not in sample[1] else sample[1], labels] = value
        if len(series) > MOST_SERIES:
            raise InputError(f"{path}:{number}: {NAME}: expected at most {MOST_SERIES:,} series")
    left_out = []
    if bad:
        noun = "sample was" if len(bad) == 1 else "samples were"
        left_out.append(f"{len(bad):,} {noun} not understood and left out (first: line {bad[0]})")
    names = {name for name, _ in series}
    if not names:
        raise InputError(
            [f"{path}: {NAME}: expected metrics of vLLM or SGLang, found none"]
            + [f"{path}: {line}" for line in left_out]
        )
    if any(name.startswith("sglang:") for name in names):
        return _sglang(series, left_out)
    return _vllm(series, left_out, max_num_seqs)


def _value(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= MOST_STEPS else None


def _total(series: dict[tuple[str, Labels], float], *names: str) -> float | None:
    """Return the sum over all label sets of the first name there is, with or without `_total`."""
    for name in names:
        found = [value for (other, _), value in series.items() if other in (name, f"{name}_total")]
        if found:
            return math.fsum(found)
    return None


def _buckets(series: dict[tuple[str, Labels], float], name: str) -> Iterator[tuple[float, float]]:
    """Yield (upper edge, count) of a histogram, summed over engines, empty buckets left out."""
    by_engine: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for (other, labels), cumulative in series.items():
        if other == f"{name}_bucket":
            edge = _edge(dict(labels).get("le", ""))
            rest = tuple(label for label in labels if label[0] != "le")
            if edge is not None:
                by_engine[rest].append((edge, cumulative))
    counts: dict[float, float] = defaultdict(float)
    for buckets in by_engine.values():
        below = 0.0
        for upper, cumulative in sorted(buckets):
            counts[upper] += max(0.0, cumulative - below)
            below = max(below, cumulative)
    yield from sorted((edge, count) for edge, count in counts.items() if count > 0)


def _edge(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _vllm(
    series: dict[tuple[str, Labels], float], left_out: list[str], max_num_seqs: int | None
) -> EngineLog:
    limit = max_num_seqs or ASSUMED_MAX_NUM_SEQS
    decode: dict[int, int] = {}
    mixed: dict[int, int] = {}
    open_ended = 0
    for edge, count in _buckets(series, "vllm:iteration_tokens_total"):
        if math.isinf(edge):
            open_ended = round(count)
        elif edge >= 1:
            (decode if edge <= limit else mixed)[int(edge)] = round(count)
    if open_ended:
        left_out = [*left_out, f"{open_ended:,} steps above the largest bucket left out"]
    steps = sum(decode.values()) + sum(mixed.values())
    notes = [f"{steps:,} vLLM steps in buckets of tokens (vllm:iteration_tokens_total)"] if steps else []
    if steps:
        origin = "as given" if max_num_seqs else "ASSUMED; --max-num-seqs says otherwise"
        notes.append(
            f"a step counts at the upper end of its bucket, as decode up to {limit} tokens ({origin}); "
            "--custom-histogram-buckets '{\"iteration_tokens\": [1, 2, 4, 8, …]}' makes the buckets the sizes"
        )
    drafts, accepted = (
        _total(series, f"vllm:spec_decode_num_{what}") for what in ("drafts", "accepted_tokens")
    )
    drafted = _total(series, "vllm:spec_decode_num_draft_tokens")
    length = 1 + accepted / drafts if drafts and accepted is not None else None
    width = 1 + round(drafted / drafts) if drafts and drafted else None
    if length:
        notes.append(
            f"speculative decoding: {length:.2f} of {width} tokens to a request and step were accepted"
        )
    return EngineLog(
        "prometheus",
        decode,
        mixed,
        StartUpFacts(engine="vllm"),
        tuple(notes),
        accepted_length=length,
        tokens_per_request=width if drafts else 1,
        left_out=tuple(left_out),
        lacks=(
            "no step times, graph modes, capture sizes or arrivals: vLLM's log has them "
            "(--cudagraph-metrics, --enable-logging-iteration-details)",
        ),
    )


def _sglang(series: dict[tuple[str, Labels], float], left_out: list[str]) -> EngineLog:
    passes: Counter[str] = Counter()
    for (name, labels), value in series.items():
        if name in ("sglang:cuda_graph_passes_total", "sglang:cuda_graph_passes"):
            passes[dict(labels).get("mode", "")] += round(value)
    replayed, eager = passes["decode_cuda_graph"], passes["decode_none"]
    notes = []
    if replayed + eager:
        share = replayed / (replayed + eager)
        notes.append(f"{replayed + eager:,} SGLang decode steps, {share:.1%} of them replayed a graph")
    length = _total(series, "sglang:spec_accept_length")
    length = length if length and length > 1 else None
    if length:
        notes.append(f"speculative decoding: {length:.2f} tokens to a request and step were accepted")
    return EngineLog(
        "prometheus",
        {},
        {},
        StartUpFacts(engine="sglang"),
        tuple(notes),
        accepted_length=length,
        left_out=tuple(left_out),
        lacks=(
            "no batch sizes: SGLang exports no histogram of them; its log's lines 'Decode batch, "
            "#running-req: N' have them",
        ),
    )
