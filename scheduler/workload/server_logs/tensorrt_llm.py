"""What TensorRT-LLM logs of its steps: `print_iter_log` lines and the iteration statistics of `/metrics`.

Read in TensorRT-LLM (tensorrt_llm/_torch/pyexecutor/py_executor.py, _profiler and _update_iter_stats;
main of 2026). Releases of 2025 write `elapsed_time = …s` and `num_scheduled_requests: N`, later ones
`host_step_time = …ms, prev_device_step_time = …ms` and `num_scheduled_requests = N`. The real batch is
the number of scheduled requests: num_generation_tokens counts the rows that a CUDA graph was padded with.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from scheduler.workload.server_logs.engine_log import MOST_SEQUENCES, EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts
from scheduler.workload.server_logs.wrappers import LogLine, NotUnderstood

FIX = "print_iter_log: true in --extra_llm_api_options, or enable_iter_perf_stats: true and GET /metrics"

_ITER = re.compile(r"\biter\s*[=:]\s*(\d{1,15})\b")
_RANK = re.compile(r"\bglobal_rank\s*[=:]\s*(\d{1,9})\b")
_SCHEDULED = re.compile(r"\bnum_scheduled_requests\s*[=:]\s*(\d{1,12})\b")
_STATE = re.compile(r"'(num_ctx_requests|num_ctx_tokens|num_generation_tokens)'\s*:\s*(\d{1,12})\b")
_ELAPSED = re.compile(
    r"\b(elapsed_time|host_step_time|prev_device_step_time)\s*[=:]\s*([0-9.eE+-]{1,40})\s*(ms|s)\b"
)
_KV_USE = re.compile(r"\bkv_cache_util\s*[=:]\s*([01](?:\.\d+)?)\b")


class _Step(NamedTuple):
    """One iteration of one rank, waiting for the next line to say how long the device took."""

    iteration: int
    is_decode: bool
    size: int
    own_ms: float | None
    times: int


class TensorrtReader:
    """Collects what iteration lines say, and what the objects of `/metrics` say."""

    def __init__(self) -> None:
        self.not_understood = NotUnderstood()
        self._steps: Counter[tuple[bool, int]] = Counter()
        self._times: dict[tuple[bool, int], Times] = defaultdict(Times)
        self._pending: dict[str, _Step] = {}
        self._ranks: set[str] = set()
        self._idle = 0
        self._kv_shares: dict[int, Times] = defaultdict(Times)
        self._kv: dict[int, Times] = defaultdict(Times)
        self._drafted = self._accepted = 0
        self._accepted_length = Times()
        self._source = "TensorRT-LLM iteration lines"

    @property
    def has_steps(self) -> bool:
        """Whether a step was read."""
        return bool(self._steps)

    def read(self, line: LogLine) -> None:
        """Take what a line says; one that looks like data and is not understood is kept for the notes."""
        # Two marks: a damaged line that has lost one is still told from other lines.
        if "num_scheduled_requests" not in line.text and "num_ctx_tokens" not in line.text:
            return
        iteration, scheduled = _ITER.search(line.text), _SCHEDULED.search(line.text)
        states = {name: int(count) for name, count in _STATE.findall(line.text)}
        if not iteration or not scheduled or "num_ctx_tokens" not in states:
            expected = "expected iter = N, num_scheduled_requests = N and states with num_ctx_tokens"
            self.not_understood.add(line, expected)
            return
        batch, prompts, tokens = (
            int(scheduled[1]),
            states.get("num_ctx_requests", 0),
            states["num_ctx_tokens"],
        )
        if batch > MOST_SEQUENCES or prompts > batch or tokens > MOST_SEQUENCES:
            self.not_understood.add(line, "expected context requests within the scheduled ones")
            return
        rank = _RANK.search(line.text)
        durations = self._durations(line)
        if durations is None:
            return
        self._add_line(line, rank[1] if rank else "", int(iteration[1]), (batch, prompts, tokens), durations)
        use = _KV_USE.search(line.text)
        if use and batch and prompts == 0:
            self._kv_shares[batch].add(float(use[1]), line.times)

    def _durations(self, line: LogLine) -> dict[str, float] | None:
        try:
            found = {
                name: float(text) * (1e3 if unit == "s" else 1.0)
                for name, text, unit in _ELAPSED.findall(line.text)
            }
        except ValueError:
            self.not_understood.add(line, "expected step times as numbers")
            return None
        if not all(0 <= ms < 1e9 for ms in found.values()):
            self.not_understood.add(line, "expected step times of at least 0")
            return None
        return found

    def _add_line(
        self, line: LogLine, rank: str, iteration: int, counts: tuple[int, int, int], ms: dict[str, float]
    ) -> None:
        """Count a step. `prev_device_step_time` is that of the iteration before, of the same rank.

        Only where that one is not in the log, or has a time of its own, is it taken as this step's.
        """
        previous = self._pending.pop(rank, None)
        device = ms.get("prev_device_step_time")
        takes_it = previous is not None and previous.own_ms is None and previous.iteration == iteration - 1
        if previous is not None and previous.own_ms is None:
            self._settle(previous, device if takes_it else None)
        self._ranks.add(rank)
        batch, prompts, tokens = counts
        if batch == 0:
            self._idle += line.times
            return
        is_decode = tokens == 0 and prompts == 0
        size = batch if is_decode else tokens + batch - prompts
        self._steps[is_decode, size] += line.times
        own = ms.get("elapsed_time")
        step = _Step(iteration, is_decode, size, own, line.times)
        if own is not None:
            self._settle(step, own)
        elif previous is not None and not takes_it and device is not None:
            step = step._replace(own_ms=device)
            self._settle(step, device)
        self._pending[rank] = step

    def _settle(self, step: _Step, ms: float | None) -> None:
        if ms is not None:
            self._times[step.is_decode, step.size].add(ms, step.times)

    def read_metrics(self, number: int, stats: Mapping[str, Any]) -> None:
        """Take one object of `/metrics`."""
        self._source = "TensorRT-LLM /metrics iterations"
        line = LogLine(number, str(dict(list(stats.items())[:4])))
        inflight = stats.get("inflightBatchingStats")
        counts = [
            _whole(inflight.get(key)) if isinstance(inflight, Mapping) else None
            for key in ("numContextRequests", "numCtxTokens", "numGenRequests")
        ]
        if any(count is None for count in counts):
            self.not_understood.add(
                line, "expected inflightBatchingStats with numGenRequests and numCtxTokens"
            )
            return
        prompts, tokens, running = (count or 0 for count in counts)
        if running + prompts == 0:
            self._idle += 1
            return
        is_decode = prompts == 0 and tokens == 0
        step = (is_decode, running if is_decode else tokens + running)
        self._steps[step] += 1
        # With the overlap scheduler iterLatencyMS spans two iterations.
        overlaps = stats.get("schedulerMode") == "overlap"
        for key in ("gpuForwardTimeMS", "hostStepTimeMS", *(() if overlaps else ("iterLatencyMS",))):
            value = stats.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
                self._times[step].add(float(value))
                break
        self._read_kv(stats.get("kvCacheStats"), running if is_decode else 0)
        self._read_drafts(stats.get("specDecodingStats"))

    def _read_kv(self, kv: object, running: int) -> None:
        if isinstance(kv, Mapping) and running:
            blocks, width = _whole(kv.get("usedNumBlocks")), _whole(kv.get("tokensPerBlock"))
            if blocks and width:
                self._kv[running].add(blocks * width / running)

    def _read_drafts(self, drafts: object) -> None:
        if not isinstance(drafts, Mapping):
            return
        length = drafts.get("acceptanceLength")
        if isinstance(length, int | float) and not isinstance(length, bool) and 1 <= length < 1e4:
            self._accepted_length.add(float(length))

    def log(self, facts: StartUpFacts, max_num_seqs: int | None = None) -> EngineLog | None:
        """Return what was logged, or None where no line was understood."""
        if not self._steps and not self._idle:
            return None
        parts: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for (is_decode, size), count in sorted(self._steps.items()):
            parts[not is_decode][size] = count
        timed = sum(spent.count for spent in self._times.values())
        notes = [
            f"{self._steps.total():,} {self._source}, {sum(parts[0].values()):,} of them decode steps alone; "
            f"step times of {timed:,}"
        ]
        if len(self._ranks) > 1:
            notes.append(f"{len(self._ranks)} ranks pooled: their shares are as they logged them")
        accepted = self._accepted_length.mean_ms if self._accepted_length.count else None
        if accepted:
            notes.append(f"speculative decoding: {accepted:.2f} tokens to a request and step were accepted")
        kv = {batch: spent.mean_ms for batch, spent in sorted(self._kv.items())}
        if facts.kv_tokens and not kv:
            shares = sorted(self._kv_shares.items())
            kv = {batch: spent.mean_ms * facts.kv_tokens / batch for batch, spent in shares}
        left_out = [f"{self._idle:,} iterations without a request left out"] if self._idle else []
        return EngineLog(
            "tensorrt-llm",
            *parts,
            facts,
            tuple(notes),
            kv_tokens=kv,
            decode_times={(size, None): spent for (decodes, size), spent in self._times.items() if decodes},
            mixed_times={size: spent for (decodes, size), spent in self._times.items() if not decodes},
            accepted_length=accepted,
            ranks=max(1, len(self._ranks)),
            left_out=(*left_out, *self.not_understood.lines),
            lacks=("whether a graph was replayed: TensorRT-LLM does not log it",),
        )


def _whole(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**12
    return value if is_count else None  # type: ignore[return-value]
