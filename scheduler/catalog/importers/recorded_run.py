"""A recorded run of a real engine: `NAME.json`, `NAME_steps.csv.gz`, with traffic `NAME_requests.csv.gz`.

The recorder inside vLLM (scheduler/record/) writes the first two, and, where the worker is a process of
its own, that one's part as `NAME_worker.csv.gz`: both number the steps. Of an engine that drafts, `chunks`
are the prompts alone, `engine.speculation` says how it drafts, and each step what was accepted.

`NAME.json` holds the engine's settings (`engine`), start-up facts (`start_up`), and when each grid cell
(`cells`: batch, prompt_tokens, output_tokens), single prompt (`prefills`: prompt_tokens) and traffic
(`traffic`: spec) ran, in microseconds of the step log's clock. The steps file has a row per engine step, in
order; the requests file a row per request of the traffic, seen by the client. Times become milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.rows import MOST_ERRORS, Row, read_rows, read_text
from scheduler.catalog.profile.file import without_repeats
from scheduler.errors import InputError

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Mode = Literal["full", "piecewise", "compiled", "eager"]
MODES: tuple[Mode, ...] = ("full", "piecewise", "compiled", "eager")
Part = Literal["cell", "prefill", "traffic"]

STEP_COLUMNS = (
    "scheduled_us",
    "requests",
    "tokens",
    "chunks",
    "free_blocks",
    "dispatched_us",
    "mode",
    "captured_tokens",
    "output_us",
)
WORKER_COLUMNS = ("step", "entered_us", "dispatched_us", "mode", "captured_tokens", "launched_us")
REQUEST_COLUMNS = ("traffic", "arrival_us", "prompt_tokens", "output_tokens", "first_token_us", "gaps_us")
_LOGGED_MODES = {"FULL": "full", "PIECEWISE": "piecewise", "NONE": "compiled"}
_AT_ONCE_MS = 0.5  # nothing was waited for
_MOST_STEPS = 2_000_000
MOST_DRAFTS = 64


@dataclass(frozen=True, slots=True)
class RecordedEngine:
    """The settings the engine ran with; `kv_blocks` includes the one it keeps as its null block."""

    version: str
    model: str
    capture_sizes: tuple[int, ...]
    eager: bool
    piecewise: bool
    full: bool
    kv_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int | None
    async_scheduling: bool
    prefix_caching: bool
    multiproc: bool
    utilization: float | None
    cudagraph_mode: str = "NONE"
    runner: Literal["v1", "v2"] | None = None
    draft_method: str | None = None
    draft_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """When one part of the work ran; `batch`, `prompt_tokens` and `output_tokens` are of a grid cell."""

    part: Part
    start_ms: float
    end_ms: float
    batch: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Steps:
    """One row per step, in the order of the decisions; times in milliseconds, NaN where not logged.

    `requests` are all that take part, `chunks` the prompt chunks among them (`chunk_tokens` in all, `pairs`
    of new and earlier tokens in them), `width` the tokens the model computes, padding included. `kv_tokens`
    are those of the decoded requests before the step. `dispatched` is when the graph is chosen and launching
    begins (multiproc, where logged: when the worker takes the step up), `launched` when the launching thread
    is free again, `output` when the tokens are handed over.
    `gpu_ms` is the GPU's work on the step where the log shows it with no launch in its way, `gpu_after` from
    the dispatch until a graph ran on an idle GPU; both NaN elsewhere.
    `held`: the GPU was kept busy before the step, so that its times are no engine's.
    Of engines that draft: `drafts[i, j]` requests of step i verified a draft number j + 1 and had not ended,
    `accepted[i, j]` of them took it; launching the next drafts began at `drafting` and ended at `drafted`.
    """

    scheduled: Float
    dispatched: Float
    launched: Float
    output: Float
    gpu_ms: Float
    gpu_after: Float
    held: NDArray[np.bool_]
    mode: NDArray[np.int8]
    requests: Int
    tokens: Int
    width: Int
    captured: Int
    chunks: Int
    chunk_tokens: Int
    new_prompts: Int
    pairs: Float
    kv_tokens: Float
    chunk_lists: tuple[tuple[tuple[int, int], ...], ...]
    drafts: Int
    accepted: Int
    drafting: Float
    drafted: Float

    def __len__(self) -> int:
        return len(self.scheduled)

    @property
    def decodes(self) -> Int:
        """How many requests of each step decode."""
        return self.requests - self.chunks

    @property
    def draft_tokens(self) -> Int:
        """How many drafts each step verifies, beside the one token of each request that decodes."""
        return self.tokens - self.chunk_tokens - self.decodes

    @property
    def rows(self) -> Int:
        """On how many tokens of each step head and sampler run."""
        return self.requests + self.draft_tokens


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of one traffic as the client saw them, by arrival; `token_ms` are delivery times.

    A delivery can hold several tokens: `token_ms[i]` may be shorter than `output_tokens[i]`.
    """

    span: Span
    arrival_ms: Float
    prompt_tokens: Int
    output_tokens: Int
    token_ms: tuple[Float, ...]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One engine's run: what it was, what its steps were, and what its clients saw."""

    name: str
    path: Path
    engine: RecordedEngine
    start_up: Mapping[str, Any]
    steps: Steps
    spans: tuple[Span, ...]
    traffic: tuple[Traffic, ...]

    def within(self, *parts: Part) -> NDArray[np.bool_]:
        """Return which steps were scheduled in a span of these parts."""
        found = np.zeros(len(self.steps), bool)
        for span in self.spans:
            if span.part in parts:
                found |= self.of_span(span)
        return found

    def of_span(self, span: Span) -> NDArray[np.bool_]:
        """Return which steps were scheduled in a span."""
        return (self.steps.scheduled >= span.start_ms) & (self.steps.scheduled <= span.end_ms)


def read_recorded(path: Path) -> RecordedRun:
    """Read `NAME.json` and the files beside it; raises InputError, one line per problem."""
    facts = _facts(path)
    engine = _engine(facts, path)
    spans = _spans(facts, path)
    name = path.name.removesuffix(".json")
    steps_path = _beside(path, name, "steps")
    if steps_path is None:
        raise InputError(f"{path}: expected {name}_steps.csv.gz beside it, the step log")
    steps = _steps(steps_path, engine)
    traffics = tuple(span for span in spans if span.part == "traffic")
    requests_path = _beside(path, name, "requests")
    if traffics and requests_path is None:
        raise InputError(f"{path}: expected {name}_requests.csv.gz beside it, for it tells of traffic")
    traffic = _traffic(requests_path, traffics) if traffics and requests_path is not None else ()
    start_up = facts.get("start_up")
    return RecordedRun(
        name, path, engine, start_up if isinstance(start_up, dict) else {}, steps, spans, traffic
    )


def _beside(path: Path, name: str, kind: str) -> Path | None:
    found = [path.with_name(f"{name}_{kind}.csv{end}") for end in (".gz", "")]
    return next((candidate for candidate in found if candidate.exists()), None)


def _facts(path: Path) -> dict[str, object]:
    try:
        value = json.loads(read_text(path), object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("engine"), dict):
        raise InputError(f'{path}: expected an object with the key "engine", the settings of a recorded run')
    return value


def _engine(facts: Mapping[str, Any], path: Path) -> RecordedEngine:
    engine = facts["engine"]
    args = engine.get("args") if isinstance(engine.get("args"), dict) else {}
    problems: list[str] = []

    def count(key: str) -> int:
        value = engine.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1_000_000_000:
            problems.append(f"{path}: engine.{key}: expected a whole number of at least 1, got {value!r}")
            return 1
        return value

    sizes = engine.get("capture_sizes")
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes):
        problems.append(f"{path}: engine.capture_sizes: expected a list of capture sizes")
        sizes = []
    mode = str(engine.get("cudagraph_mode", "NONE")).rsplit(".", 1)[-1]
    length, share = args.get("max_model_len"), args.get("gpu_memory_utilization")
    drafting = engine.get("speculation")
    drafting = drafting if isinstance(drafting, dict) else {}
    drafts = drafting.get("num_speculative_tokens", 0)
    result = RecordedEngine(
        version=str(engine.get("version", "not stated")),
        model=str(engine.get("model", "not stated")),
        capture_sizes=tuple(sorted(set(sizes))),
        eager=bool(args.get("enforce_eager", False)),
        piecewise="PIECEWISE" in mode and bool(sizes),
        full="FULL" in mode and bool(sizes),
        kv_blocks=count("num_gpu_blocks"),
        block_size=count("block_size"),
        max_num_seqs=count("max_num_seqs"),
        max_num_batched_tokens=count("max_num_batched_tokens"),
        max_model_len=length if isinstance(length, int) else None,
        async_scheduling=bool(engine.get("async_scheduling", False)),
        prefix_caching=bool(engine.get("prefix_caching", False)),
        multiproc=_is_multiproc(engine, args),
        utilization=float(share) if isinstance(share, int | float) and 0 < share <= 1 else None,
        cudagraph_mode=mode,
        runner=None if "v2_runner" not in engine else "v2" if engine["v2_runner"] else "v1",
        draft_method=str(drafting["method"]) if "method" in drafting else None,
        draft_tokens=drafts if isinstance(drafts, int) and 0 <= drafts <= MOST_DRAFTS else 0,
    )
    if problems:
        raise InputError(problems)
    return result


def _is_multiproc(engine: Mapping[str, Any], args: Mapping[str, Any]) -> bool:
    """Return whether a worker's process launches: vLLM's `mp` executor, which several GPUs need."""
    backend = engine.get("executor") or args.get("distributed_executor_backend")
    many = args.get("tensor_parallel_size", 1), args.get("pipeline_parallel_size", 1)
    named = any(word in str(backend or "").lower() for word in ("mp", "multiproc"))
    return named or any(isinstance(n, int) and n > 1 for n in many)


def _spans(facts: Mapping[str, Any], path: Path) -> tuple[Span, ...]:
    kinds: tuple[tuple[str, Part], ...] = (("cells", "cell"), ("prefills", "prefill"), ("traffic", "traffic"))
    spans: list[Span] = []
    problems: list[str] = []
    for key, part in kinds:
        entries = facts.get(key, [])
        if not isinstance(entries, list):
            problems.append(f"{path}: {key}: expected a list")
            continue
        for index, entry in enumerate(entries):
            given = [entry.get(end) if isinstance(entry, dict) else None for end in ("start_us", "end_us")]
            times = [float(t) for t in given if isinstance(t, int | float) and not isinstance(t, bool)]
            if len(times) < 2:
                problems.append(f"{path}: {key}.{index}: expected start_us and end_us, microseconds")
                continue
            sizes = [entry.get(name, 0) for name in ("batch", "prompt_tokens", "output_tokens")]
            whole = [int(size) if isinstance(size, int) else 0 for size in sizes]
            spans.append(Span(part, times[0] / 1e3, times[1] / 1e3, *whole))
    if problems:
        raise InputError(problems[:MOST_ERRORS])
    return tuple(spans)


class _Columns:
    """Cells of a CSV as numbers; collects a line per bad cell and raises them together."""

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        self.path, self.rows, self.problems = path, rows, list[str]()

    def read(self, column: str, parse: Callable[[str], Any], expected: str) -> list[Any]:
        values = []
        for index, row in enumerate(self.rows):
            try:
                values.append(parse(row[column]))
            except ValueError:
                if len(self.problems) < MOST_ERRORS:
                    got = row[column][:40]
                    self.problems.append(
                        f"{self.path}: row {index + 2}: {column}: expected {expected}, got {got!r}"
                    )
                values.append(parse("0") if column != "mode" else "NONE")
        return values

    def times(self, column: str) -> Float:
        return np.array(self.read(column, _time, "microseconds"), np.float64) / 1e3

    def counts(self, column: str) -> Int:
        return np.array(self.read(column, _count, "a whole number of at least 0"), np.int64)

    def optional(self, column: str, parse: Callable[[str], Any], expected: str) -> Float:
        if column not in self.rows[0]:
            return np.full(len(self.rows), np.nan)
        return np.array(self.read(column, parse, expected), np.float64)

    def by_place(self, column: str) -> Int:
        """Return counts by place, a row per step; no places where the column is missing."""
        if column not in self.rows[0]:
            return np.zeros((len(self.rows), 0), np.int64)
        lists = self.read(column, _list_of_counts, "counts with spaces between")
        places = min(max(map(len, lists), default=0), MOST_DRAFTS)
        return np.array([(row + [0] * places)[:places] for row in lists], np.int64).reshape(
            len(lists), places
        )

    def check(self) -> None:
        if self.problems:
            raise InputError(self.problems)


def _time(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e15:
        raise ValueError(text)
    return value


def _time_or_none(text: str) -> float:
    return _time(text) if text and text != "-1" else float("nan")


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1_000_000_000:
        raise ValueError(text)
    return value


def _list_of_counts(text: str) -> list[int]:
    return [_count(part) for part in text.split()]


def _mode(text: str) -> str:
    if text not in _LOGGED_MODES:
        raise ValueError(text)
    return text


def _steps(path: Path, engine: RecordedEngine) -> Steps:
    rows = read_rows(path, STEP_COLUMNS)
    if len(rows) > _MOST_STEPS:
        raise InputError(f"{path}: expected at most {_MOST_STEPS:,} steps, got {len(rows):,}")
    rows = with_worker(path, rows)
    columns = _Columns(path, rows)
    scheduled, dispatched, output = (
        columns.times(name) for name in ("scheduled_us", "dispatched_us", "output_us")
    )
    requests, tokens, captured = (columns.counts(name) for name in ("requests", "tokens", "captured_tokens"))
    free_blocks = columns.counts("free_blocks")
    logged = columns.read("mode", _mode, "FULL, PIECEWISE or NONE")
    chunk_tokens = columns.read("chunks", _list_of_counts, "token counts with spaces between")
    cached = (
        columns.read("chunk_cached", _list_of_counts, "token counts with spaces between")
        if "chunk_cached" in rows[0]
        else None
    )
    kv_logged = columns.optional("kv_tokens", _time_or_none, "a number or nothing")
    launched, drafting, drafted = (
        columns.optional(name, _time_or_none, "microseconds or nothing") / 1e3
        for name in ("launched_us", "drafting_us", "drafted_us")
    )
    drafts, accepted = columns.by_place("drafts"), columns.by_place("accepted")
    if engine.multiproc:
        # All that the worker's process does for a step keeps the next one waiting: preparing it, too.
        entered = columns.optional("entered_us", _time_or_none, "microseconds or nothing") / 1e3
        dispatched = np.where(np.isfinite(entered), entered, dispatched)
    held = columns.optional("held", _time_or_none, "1 or nothing") > 0
    gpu = {
        name: columns.optional(f"{name}_us", _time_or_none, "microseconds or nothing") / 1e3
        for name in ("sampled", "gpu_start", "gpu_prepare", "gpu_model", "gpu_head", "gpu_end")
    }
    columns.check()
    _check_order(path, scheduled, dispatched, output, requests, tokens)
    drafts, accepted = _check_drafts(path, drafts, accepted, requests)
    chunk_lists = _with_cached(chunk_tokens, cached, tokens, engine.max_num_batched_tokens)
    in_chunks = np.array([sum(tokens for tokens, _ in chunks) for chunks in chunk_lists], np.int64)
    cached_of_prompts = np.array([sum(before for _, before in row) for row in chunk_lists], np.float64)
    mode = np.array([MODES.index(_mode_of(text, engine)) for text in logged], np.int8)
    kv_tokens = _kv_tokens(free_blocks, requests, in_chunks, chunk_lists, engine)
    return Steps(
        scheduled,
        dispatched,
        _until_hand_over(scheduled, launched, output, engine),
        output,
        *_gpu_times(gpu, dispatched, launched, mode == MODES.index("full")),
        held,
        mode,
        requests,
        tokens,
        np.maximum(captured, tokens),
        captured,
        np.array([len(chunks) for chunks in chunk_lists], np.int64),
        in_chunks,
        np.array([sum(cached == 0 for _, cached in chunks) for chunks in chunk_lists], np.int64),
        np.array([sum(c * (k + c / 2) for c, k in chunks) for chunks in chunk_lists], np.float64),
        np.where(np.isnan(kv_logged), kv_tokens, kv_logged - cached_of_prompts),
        chunk_lists,
        drafts,
        accepted,
        drafting,
        drafted,
    )


def with_worker(path: Path, rows: list[Row]) -> list[Row]:
    """Return step rows with what the worker's process wrote of the same steps, where it is another one.

    The last rows may lack it and are left out. Raises InputError where nothing fits.
    """
    if "step" not in rows[0] or all(row["dispatched_us"] for row in rows):
        return rows
    name = path.name.split("_steps.csv")[0]
    worker = _beside(path.with_name(f"{name}.json"), name, "worker")
    if worker is None:
        raise InputError(
            f"{path}: expected {name}_worker.csv.gz beside it, for the worker was a process of its own"
        )
    parts = {row["step"]: row for row in read_rows(worker, WORKER_COLUMNS)}
    joined = [row | parts[row["step"]] for row in rows if row["step"] in parts]
    if not joined:
        raise InputError(f"{path}: no step of it is in {worker.name}; are both of one run?")
    return joined


def _until_hand_over(scheduled: Float, launched: Float, output: Float, engine: RecordedEngine) -> Float:
    """Return the ends of launches with what it takes to hand over tokens that were there by then.

    The scheduler's own thread launches, then takes the tokens of the step before: no work is left between,
    yet it takes a moment, which is part of the engine's cycle.
    """
    if engine.multiproc or len(launched) < 2:
        return launched
    moment = output[:-1] - launched[1:]
    at_once = (scheduled[1:] < output[:-1]) & (moment > 0) & (moment < _AT_ONCE_MS)
    return launched + float(np.median(moment[at_once])) if at_once.any() else launched


def _gpu_times(
    gpu: Mapping[str, Float], dispatched: Float, launched: Float, is_graph: NDArray[np.bool_]
) -> tuple[Float, Float]:
    """Return the GPU's own work on each step, and how long after its dispatch a graph ran on an idle GPU.

    Work is seen where all launches were over before the GPU began; of a graph, which is launched at once,
    where its head and sampler were launched before it ended.
    """
    begun = gpu["gpu_start"] + gpu["gpu_prepare"]  # of the model
    with np.errstate(invalid="ignore"):
        whole = np.where(gpu["gpu_start"] >= launched, gpu["gpu_end"] - gpu["gpu_start"], np.nan)
        in_graph = is_graph & (gpu["sampled"] <= begun + gpu["gpu_model"])
        work = np.where(in_graph & np.isnan(whole), gpu["gpu_model"] + gpu["gpu_head"], whole)
        was_idle = is_graph & (gpu["gpu_prepare"] > _AT_ONCE_MS)
    return np.where(work > 0, work, np.nan), np.where(was_idle, begun - dispatched, np.nan)


def _mode_of(logged: str, engine: RecordedEngine) -> Mode:
    mode: Mode = _LOGGED_MODES[logged]  # type: ignore[assignment]
    return "eager" if mode == "compiled" and engine.eager else mode


def _check_order(
    path: Path, scheduled: Float, dispatched: Float, output: Float, requests: Int, tokens: Int
) -> None:
    wrong = (dispatched < scheduled) | (output < dispatched) | (requests < 1) | (tokens < requests)
    wrong[1:] |= scheduled[1:] < scheduled[:-1]
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: row {row + 2}: expected scheduled_us ≤ dispatched_us ≤ output_us, steps in the order "
            "of their scheduling, and tokens ≥ requests ≥ 1"
        )


def _check_drafts(path: Path, drafts: Int, accepted: Int, requests: Int) -> tuple[Int, Int]:
    """Return drafts and accepted drafts with as many places; never more accepted than verified, by place."""
    places = max(drafts.shape[1], accepted.shape[1])
    drafts, accepted = (
        np.pad(counts, ((0, 0), (0, places - counts.shape[1]))) for counts in (drafts, accepted)
    )
    wrong = (accepted > drafts).any(1) | (drafts > requests[:, None]).any(1)
    wrong |= (np.diff(drafts, axis=1) > 0).any(1) | (np.diff(accepted, axis=1) > 0).any(1)
    if wrong.any():
        raise InputError(
            f"{path}: row {int(np.argmax(wrong)) + 2}: expected requests ≥ drafts ≥ accepted at each place, "
            "neither rising from place to place"
        )
    return drafts, accepted


def _with_cached(
    chunk_tokens: Sequence[Sequence[int]], cached: Sequence[Sequence[int]] | None, tokens: Int, budget: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return (tokens, tokens cached before) of every chunk.

    Where the log does not say what was cached: a prompt is cut only where the step's budget is spent, it is
    the last of that step, and the first of the next one.
    """
    lists = []
    rest = 0
    for row, chunks in enumerate(chunk_tokens):
        known = cached[row] if cached is not None and len(cached[row]) == len(chunks) else None
        found = []
        for index, size in enumerate(chunks):
            before = known[index] if known is not None else (rest if index == 0 else 0)
            found.append((size, before))
        if found:
            last = found[-1]
            rest = last[0] + last[1] if tokens[row] >= budget else 0
        lists.append(tuple(found))
    return tuple(lists)


def _kv_tokens(
    free_blocks: Int,
    requests: Int,
    chunk_tokens: Int,
    chunks: Sequence[Sequence[tuple[int, int]]],
    engine: RecordedEngine,
) -> Float:
    """Estimate the decodes' KV tokens from the blocks in use: the last block of a request is half full."""
    size = engine.block_size
    used = np.maximum(engine.kv_blocks - 1 - free_blocks, 0) * float(size)
    of_prompts = chunk_tokens + np.array([sum(cached for _, cached in row) for row in chunks], np.float64)
    return np.maximum(used - (size - 1) / 2 * requests - of_prompts, 0.0)


def _traffic(path: Path, spans: Sequence[Span]) -> tuple[Traffic, ...]:
    columns = _Columns(path, read_rows(path, REQUEST_COLUMNS))
    number = columns.counts("traffic")
    arrival, first = columns.times("arrival_us"), columns.times("first_token_us")
    prompts, outputs = columns.counts("prompt_tokens"), columns.counts("output_tokens")
    gaps = columns.read("gaps_us", _gaps, "microseconds with spaces between")
    columns.check()
    wrong = (number >= len(spans)) | (prompts < 1) | (outputs < 1)
    wrong |= np.array([len(row) for row in gaps]) >= np.maximum(outputs, 1)
    if wrong.any():
        raise InputError(
            f"{path}: row {int(np.argmax(wrong)) + 2}: expected a traffic of the .json file, at least one "
            "token of prompt and answer, and fewer gaps than tokens of the answer"
        )
    result = []
    for index, span in enumerate(spans):
        rows = np.flatnonzero(number == index)
        rows = rows[np.argsort(arrival[rows], kind="stable")]
        deliveries = tuple(
            arrival[row] + np.cumsum(np.concatenate([[first[row]], gaps[row]])) for row in rows
        )
        result.append(Traffic(span, arrival[rows], prompts[rows], outputs[rows], deliveries))
    return tuple(result)


def _gaps(text: str) -> Float:
    gaps = np.array(text.split(), np.float64) / 1e3
    if not (np.isfinite(gaps).all() and (gaps >= 0).all()):
        raise ValueError(text)
    return gaps
