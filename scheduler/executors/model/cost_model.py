"""The cost model: what a step takes by a profile, in whole nanoseconds of the virtual clock."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.profile.inline import DecodeCurve, InlineProfile
from scheduler.catalog.profile.profile import ZERO, LowHigh, Mode, Profile
from scheduler.catalog.profile.tables import Points, decode_points, read_curve, read_points
from scheduler.engine.executor import Admission, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.prefill_cost import PrefillCost
from scheduler.executors.model.step_lines import NS_PER_MS, StepLine, step_line

WithoutGraph = Literal["eager", "fallback"]
Bound = Literal["low", "high"]


class CostModel:
    """A `PredictableExecutor` that reads step times from a profile.

    A decode step in a graph costs what the *captured* size costs with the live rows' KV tokens; without a
    graph, what the actual size costs on the `without_graph` curve. `bound` picks the end of every time
    that the profile knows as a range. With `jitter`, step k takes `jitter[k % len]` times its time.
    `extrapolated` collects, in words, what was read beyond the measured range.
    """

    def __init__(
        self,
        profile: Profile | InlineProfile,
        without_graph: WithoutGraph,
        bound: Bound = "low",
        jitter: NDArray[np.float64] | None = None,
    ) -> None:
        self.profile = profile
        self.without_graph: WithoutGraph = without_graph
        self.bound: Bound = bound
        self.extrapolated: set[str] = set()
        self._padding_attends = True
        if isinstance(profile, Profile) and profile.decode.graph is not None:
            self._padding_attends = profile.decode.graph.padding_attends
        self._graph_lines: dict[int, StepLine] = {}
        self._other_lines: dict[int, StepLine] = {}
        self._kv_points: dict[int, Points] = {}
        self._kv_beyond: dict[tuple[str, int], int] = {}
        self._jitter = None if jitter is None else array("d", jitter)
        self._steps = 0
        self._prefill: PrefillCost | None = None
        if isinstance(profile, Profile) and profile.prefill is not None:
            self._prefill = PrefillCost(profile.prefill)

    def admit(self, slot: int, admission: Admission) -> None:
        """Nothing to prepare: a model has no slots."""

    def release(self, slot: int) -> None:
        """Nothing to clean up: a model has no slots."""

    def run(self, plan: StepPlan) -> int:
        """Return the duration of one step in nanoseconds, rounded half-even once.

        Raises InputError where the profile has no time for it (a table too short, a curve missing).
        """
        if not plan.prefill:
            line = self._line(plan)
            if plan.kv_tokens > line.measured_kv_tokens:
                self._note_kv(plan, plan.kv_tokens)
            ns = line.ns(plan.kv_tokens)
        else:
            ns = self._with_prefill_ns(plan)
        if self._jitter is None:
            return round(ns)
        self._steps += 1
        return round(ns * self._jitter[(self._steps - 1) % len(self._jitter)])

    def run_ahead(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        """Run decode steps like `plan`, the KV tokens growing by `batch_size` each; see PredictableExecutor.

        Bit-equal to as many calls of `run`.
        """
        if self._jitter is not None or plan.prefill:
            return self._run_one_by_one(plan, most_steps, horizon_ns, durations)
        lines = self._other_lines if plan.capture_size is None else self._graph_lines
        line = lines.get(self._key(plan)) or self._line(plan)
        slopes = line.slopes
        if len(slopes) == 1 and slopes[0] == 0.0:
            duration = round(line.offsets[0])
            steps = min(most_steps, -(-horizon_ns // duration)) if duration else most_steps
            steps = max(steps, 1)
            if plan.kv_tokens + (steps - 1) * plan.batch_size > line.measured_kv_tokens:
                self._note_kv(plan, plan.kv_tokens + (steps - 1) * plan.batch_size)
            durations.extend(array("q", (duration,)) * steps)
            return duration * steps
        return self._run_on_line(line, plan, most_steps, horizon_ns, durations)

    def _run_on_line(
        self, line: StepLine, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]
    ) -> int:
        starts, offsets, slopes = line.starts, line.offsets, line.slopes
        batch_size, kv_tokens = plan.batch_size, plan.kv_tokens
        append = durations.append
        elapsed = 0
        last = len(starts) - 1
        index = bisect_right(starts, kv_tokens) - 1 if last else 0
        while True:
            offset, slope = offsets[index], slopes[index]
            if index == last:
                steps = most_steps
            else:  # steps until the next segment begins
                index += 1
                steps = min(most_steps, (starts[index] - kv_tokens - 1) // batch_size + 1)
            most_steps -= steps
            first = kv_tokens
            for kv_tokens in range(first, first + steps * batch_size, batch_size):
                duration = round(offset + slope * kv_tokens)
                append(duration)
                elapsed += duration
                if elapsed >= horizon_ns:
                    most_steps = 0
                    break
            if not most_steps:
                if kv_tokens > line.measured_kv_tokens:
                    self._note_kv(plan, kv_tokens)
                return elapsed
            kv_tokens += batch_size

    def _run_one_by_one(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        elapsed = 0
        for _ in range(most_steps):
            duration = self.run(plan)
            durations.append(duration)
            elapsed += duration
            if elapsed >= horizon_ns:
                break
            plan = plan._replace(kv_tokens=plan.kv_tokens + plan.batch_size)
        return elapsed

    # What the card says about the profile.

    @property
    def has_range(self) -> bool:
        """Whether low and high differ for the curves that this model uses or the graphs are compared with."""
        profile = self.profile
        if isinstance(profile, InlineProfile):
            return False
        ranges = [profile.host.step_ms]
        ranges += [mode.issue_ms for mode in (profile.decode.eager, profile.decode.fallback) if mode]
        if profile.prefill is not None and profile.prefill.issue_ms is not None:
            ranges.append(profile.prefill.issue_ms)
        return any(interval.low != interval.high for interval in ranges)

    @property
    def fallback_is_eager(self) -> bool:
        """Whether the fallback curve is missing and the eager curve stands in for it."""
        if isinstance(self.profile, InlineProfile):
            return self.profile.decode_fallback_ms is None
        return self.profile.decode.fallback is None

    @property
    def assumed_fields(self) -> list[tuple[str, str]]:
        """(field, note) of everything the profile assumes; none for an inline profile."""
        return [] if isinstance(self.profile, InlineProfile) else self.profile.fields_of_origin("assumed")

    def extrapolations(self) -> list[str]:
        """Return, in words, what was read beyond the profile's measured range, sorted."""
        kv = []
        for mode in dict.fromkeys(mode for mode, _ in self._kv_beyond):
            rows = [rows for other, rows in self._kv_beyond if other == mode]
            most = max(tokens for (other, _), tokens in self._kv_beyond.items() if other == mode)
            kv.append(f"{mode} decode steps of {min(rows)}–{max(rows)} rows, up to {most:,} KV tokens")
        return sorted([*self.extrapolated, *kv])

    def decode_ms(self, mode: Mode, size: int, kv_tokens: int) -> float:
        """Return the milliseconds of a decode step of `size` rows in a mode (for plots and tables)."""
        return self._new_line(mode, size).ns(kv_tokens) / NS_PER_MS

    def decode_line(self, mode: Mode, size: int) -> StepLine:
        """Return the times of decode steps of `size` rows in a mode, by KV tokens; raises InputError."""
        return self._new_line(mode, size)

    # Decode lines, one per mode and size.

    def _key(self, plan: StepPlan) -> int:
        """Return what the step's line depends on: the rows, and the live ones where padding attends not."""
        size = plan.capture_size
        if size is None:
            return plan.batch_size
        return size if self._padding_attends else size << 32 | plan.batch_size

    def _line(self, plan: StepPlan) -> StepLine:
        lines = self._other_lines if plan.capture_size is None else self._graph_lines
        key = self._key(plan)
        line = lines.get(key)
        if line is None:
            mode: Mode = self.without_graph if plan.capture_size is None else "graph"
            live = None if self._padding_attends else plan.batch_size
            line = lines[key] = self._new_line(mode, plan.capture_size or plan.batch_size, live)
        return line

    def _new_line(self, mode: Mode, size: int, live_rows: int | None = None) -> StepLine:
        profile = self.profile
        if isinstance(profile, InlineProfile):
            return _inline_line(profile, mode, size)
        table, data = profile.decode.table(mode), profile.decode.mode(mode)
        if table is None or data is None:
            name = profile.identity.name
            raise InputError(f"profile {name}: a decode step needs the {mode} curve, which the profile lacks")
        if size > table.sizes[-1] or size < table.sizes[0]:
            side = f"above {table.sizes[-1]}" if size > table.sizes[-1] else f"below {table.sizes[0]}"
            self.extrapolated.add(f"decode steps of {side} rows ({mode})")
        points = decode_points(table, size)
        if live_rows is not None and live_rows < size:
            # At the first knot the KV tokens hardly count: what is left is the rows' own work.
            without_kv_ms = points[0][1]
            points = decode_points(table, live_rows)
            rows_ms = without_kv_ms - points[0][1]
            points = [(kv, ms + rows_ms) for kv, ms in points]
        points = [(kv, ms + data.gpu_extra_ms) for kv, ms in points]
        issue_ms = data.issue_ms.at(self.bound)
        host_ms = self._host_ms(size)
        if profile.host.overlap:
            return step_line(points, issue_ms + host_ms, 0.0)
        return step_line(points, issue_ms, host_ms)

    def _host_ms(self, sequences: int) -> float:
        if isinstance(self.profile, InlineProfile):
            return 0.0
        host = self.profile.host
        return host.step_ms.at(self.bound) + host.per_sequence_ms * sequences

    def _note_kv(self, plan: StepPlan, kv_tokens: int) -> None:
        rows = plan.capture_size or plan.batch_size
        mode = self.without_graph if plan.capture_size is None else "graph"
        self._kv_beyond[mode, rows] = max(kv_tokens, self._kv_beyond.get((mode, rows), 0))

    # Steps with prompt tokens.

    def _with_prefill_ns(self, plan: StepPlan) -> float:
        profile = self.profile
        if isinstance(profile, InlineProfile):
            return _inline_prefill_ns(profile, plan, self.without_graph)
        if self._prefill is None or profile.prefill is None:
            name = profile.identity.name
            raise InputError(
                f"profile {name}: a step computes prompt tokens, the profile has no prefill times"
            )
        gpu_ms, beyond = self._prefill.gpu_ms(plan, self._decode_kv_ms(plan))
        if beyond:
            self.extrapolated.add("steps with prompt tokens beyond the measured tables")
        return self._with_host_ns(profile, plan, gpu_ms)

    def piecewise_ns(self, plan: StepPlan, sizes: Sequence[int]) -> list[float]:
        """Return the unrounded nanoseconds of a step with prompt tokens in piecewise graphs of these sizes.

        The same as `run` of each, but attention is read once: a size only pads what the token curve sees.
        """
        profile = self.profile
        if isinstance(profile, InlineProfile) or self._prefill is None or profile.prefill is None:
            return [self._with_prefill_ns(plan._replace(capture_size=size)) for size in sizes]
        curve, computed = profile.prefill.tokens, plan.batch_size + plan.prefill_tokens
        plan = plan._replace(capture_size=computed)
        gpu_ms, _ = self._prefill.gpu_ms(plan, self._decode_kv_ms(plan))
        gpu_ms -= read_curve(curve, computed)
        padded = (gpu_ms + read_curve(curve, max(computed, size)) for size in sizes)
        return [self._with_host_ns(profile, plan, ms) for ms in padded]

    def _with_host_ns(self, profile: Profile, plan: StepPlan, gpu_ms: float) -> float:
        host_ms = self._host_ms(plan.batch_size + len(plan.prefill))
        issue_ms = self._prefill_issue(plan).at(self.bound)
        if profile.host.overlap:
            return max(host_ms + issue_ms, gpu_ms) * NS_PER_MS
        return (host_ms + max(issue_ms, gpu_ms)) * NS_PER_MS

    def _prefill_issue(self, plan: StepPlan) -> LowHigh:
        if isinstance(self.profile, InlineProfile) or self.profile.prefill is None:
            return ZERO
        prefill = self.profile.prefill
        if plan.capture_size is not None and prefill.piecewise_issue_ms is not None:
            return prefill.piecewise_issue_ms
        if prefill.issue_ms is not None:
            return prefill.issue_ms
        mode = self.profile.decode.mode(self.without_graph)
        return ZERO if mode is None else mode.issue_ms

    def _decode_kv_ms(self, plan: StepPlan) -> float:
        """Return the part of a decode step's GPU time that its KV tokens cause."""
        if isinstance(self.profile, InlineProfile) or not plan.batch_size:
            return 0.0
        if self._prefill is not None and self._prefill.joint is not None:
            return 0.0
        table = self.profile.decode.table("graph") or self.profile.decode.table(self.without_graph)
        if table is None:
            return 0.0
        points = self._kv_points.get(plan.batch_size)
        if points is None:
            points = self._kv_points[plan.batch_size] = decode_points(table, plan.batch_size)
        return max(read_points(points, plan.kv_tokens) - points[0][1], 0.0)


def _inline_curve(profile: InlineProfile, mode: Mode) -> tuple[str, DecodeCurve]:
    if mode == "graph":
        return "decode_graph_ms", profile.decode_graph_ms
    if mode == "fallback" and profile.decode_fallback_ms is not None:
        return "decode_fallback_ms", profile.decode_fallback_ms
    return "decode_eager_ms", profile.decode_eager_ms


def _inline_line(profile: InlineProfile, mode: Mode, size: int) -> StepLine:
    """Whole step times, taken as they are: one straight line over the KV tokens."""
    key, curve = _inline_curve(profile, mode)
    if curve.table is not None:
        if size > len(curve.table):
            raise InputError(
                f"engine.profile.{key}.table: a step of {size} rows is reached, "
                f"the table ends at {len(curve.table)}"
            )
        ms = curve.table[size - 1]
    else:
        ms = (curve.base or 0.0) + (curve.per_request or 0.0) * size
    return StepLine((0,), (ms * NS_PER_MS,), (curve.per_kv_token * NS_PER_MS,), float("inf"))


def _inline_prefill_ns(profile: InlineProfile, plan: StepPlan, without_graph: WithoutGraph) -> float:
    """Sum of the prefill line and, in a mixed step, of the decodes' own step time.

    The sum is conservative: a real mixed step reads the weights once for both parts. In a piecewise graph
    the decodes are taken from the graph curve at their own number, for the capture size counts tokens.
    """
    line = profile.prefill_ms
    if line is None:
        raise InputError("engine.profile.prefill_ms: a step with prompt tokens needs this key, it is missing")
    ns = (line.base + line.per_token * plan.prefill_tokens) * NS_PER_MS
    if plan.batch_size:
        mode: Mode = without_graph if plan.capture_size is None else "graph"
        ns += _inline_line(profile, mode, plan.batch_size).ns(plan.kv_tokens)
    return ns
