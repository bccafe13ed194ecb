"""Step times by a profile of curves: host + max(issue, GPU), or max(host + issue, GPU) with overlap."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.catalog.profile.curves import CurveProfile, Prefill
from scheduler.catalog.profile.profile import ZERO, LowHigh, Mode
from scheduler.catalog.profile.tables import DecodeTable, Points, decode_points, read_curve, read_points
from scheduler.engine.executor import StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import Bound, CostModel, Launch, WithoutGraph
from scheduler.executors.model.prefill_cost import PrefillCost
from scheduler.executors.model.step_lines import NS_PER_MS, StepLine, step_line


class CurveCostModel(CostModel):
    """The cost model of a `CurveProfile`."""

    def __init__(self, profile: CurveProfile, without_graph: WithoutGraph, bound: Bound = "low") -> None:
        super().__init__(without_graph, bound)
        self._profile = profile
        self._kv_points: dict[int, Points] = {}
        self._prefill = None if profile.prefill is None else PrefillCost(profile.prefill)
        if profile.decode.graph is not None:
            self.padding_attends = profile.decode.graph.padding_attends

    def decode_line(self, mode: Launch, size: int, live_rows: int | None = None) -> StepLine:
        """See CostModel."""
        profile = self._profile
        launch, mode = mode, "graph" if mode == "piecewise" else mode
        table, data = profile.decode.table(mode), profile.decode.mode(mode)
        if table is None or data is None:
            raise InputError(
                f"profile {profile.name}: a decode step needs the {mode} curve, which the profile lacks; "
                f"import steps of mode {mode}, too (run.py profile import --help)"
            )
        points = self._points(table, size, mode)
        if live_rows is not None and live_rows < size:
            # At the first knot the KV tokens hardly count: what is left is the rows' own work.
            without_kv_ms = points[0][1]
            points = self._points(table, live_rows, mode)
            rows_ms = without_kv_ms - points[0][1]
            points = [(kv, ms + rows_ms) for kv, ms in points]
        points = [(kv, ms + data.gpu_extra_ms) for kv, ms in points]
        issue = self._piecewise_issue() if launch == "piecewise" else data.issue_ms
        issue_ms = issue.at(self.bound)
        host_ms = self._host_ms(size)
        if profile.host.overlap:
            return step_line(points, issue_ms + host_ms, 0.0)
        return step_line(points, issue_ms, host_ms)

    def _points(self, table: DecodeTable, size: int, mode: Mode) -> Points:
        """Return the GPU's time of `size` rows over their KV tokens.

        Steps of more tokens than any measured batch, as verifying drafts makes them, go on as the curve of
        steps with prompts does, which reaches further.
        """
        largest = table.sizes[-1]
        if self.verifies_drafts and self._prefill is not None and size > largest:
            curve = self._prefill.prefill.tokens
            if curve.at[-1] > largest:
                if size > curve.at[-1]:
                    self.extrapolated.add(f"steps of more than {curve.at[-1]:,.0f} tokens")
                more_ms = max(read_curve(curve, size) - read_curve(curve, largest), 0.0)
                return [(kv, ms + more_ms) for kv, ms in decode_points(table, largest)]
        if size > largest or size < table.sizes[0]:
            side = f"above {largest}" if size > largest else f"below {table.sizes[0]}"
            self.extrapolated.add(f"decode steps of {side} rows ({mode})")
        return decode_points(table, size)

    def token_work_ms(self, tokens: int) -> float:
        """See CostModel; by the curve of graphs, else that of steps without one."""
        decode = self._profile.decode
        mode: Mode = "graph" if decode.table("graph") is not None else self.without_graph
        table = decode.table(mode)
        if table is None:
            raise InputError(
                f"profile {self._profile.name}: drafting needs a decode curve, the profile has none"
            )
        return self._points(table, max(tokens, 1), mode)[0][1]

    def launch_ms(self, mode: Launch) -> float:
        """See CostModel."""
        data = None if mode == "piecewise" else self._profile.decode.mode(mode)
        return 0.0 if data is None else data.issue_ms.at(self.bound)

    def prompt_step_ns(self, plan: StepPlan) -> float:
        """See CostModel."""
        prefill = self._prefill_cost()
        gpu_ms, beyond = prefill.gpu_ms(plan, self._decode_kv_ms(plan))
        if beyond:
            self.extrapolated.add("steps with prompt tokens beyond the measured tables")
        return self._with_host_ns(prefill.prefill, plan, gpu_ms)

    def piecewise_ns(self, plan: StepPlan, sizes: Sequence[int]) -> list[float]:
        """See CostModel; attention is read once, for a size only pads what the token curve sees."""
        prefill = self._prefill_cost()
        curve = prefill.prefill.tokens
        computed = plan.batch_size + plan.draft_tokens + plan.prefill_tokens
        plan = plan._replace(capture_size=computed)
        gpu_ms, _ = prefill.gpu_ms(plan, self._decode_kv_ms(plan))
        gpu_ms -= read_curve(curve, computed)
        padded = (gpu_ms + read_curve(curve, max(computed, size)) for size in sizes)
        return [self._with_host_ns(prefill.prefill, plan, ms) for ms in padded]

    def _prefill_cost(self) -> PrefillCost:
        if self._prefill is None:
            raise InputError(
                f"profile {self._profile.name}: a step computes prompt tokens, "
                "the profile has no prefill times"
            )
        return self._prefill

    def _host_ms(self, sequences: int) -> float:
        host = self._profile.host
        return host.step_ms.at(self.bound) + host.per_sequence_ms * sequences

    def _with_host_ns(self, prefill: Prefill, plan: StepPlan, gpu_ms: float) -> float:
        host_ms = self._host_ms(plan.batch_size + len(plan.prefill))
        issue_ms = self._prefill_issue(prefill, plan).at(self.bound)
        if self._profile.host.overlap:
            return max(host_ms + issue_ms, gpu_ms) * NS_PER_MS
        return (host_ms + max(issue_ms, gpu_ms)) * NS_PER_MS

    def _prefill_issue(self, prefill: Prefill, plan: StepPlan) -> LowHigh:
        if plan.capture_size is not None and prefill.piecewise_issue_ms is not None:
            return prefill.piecewise_issue_ms
        if prefill.issue_ms is not None:
            return prefill.issue_ms
        return self._issue_without_graph()

    def _piecewise_issue(self) -> LowHigh:
        """Return what launching a decode step piece by piece takes; unknown: as much as without a graph."""
        prefill = self._profile.prefill
        if prefill is None or prefill.piecewise_issue_ms is None:
            return self._issue_without_graph()
        return prefill.piecewise_issue_ms

    def _issue_without_graph(self) -> LowHigh:
        mode = self._profile.decode.mode(self.without_graph)
        return ZERO if mode is None else mode.issue_ms

    def _decode_kv_ms(self, plan: StepPlan) -> float:
        """Return the part of a decode step's GPU time that its KV tokens cause."""
        if not plan.batch_size or (self._prefill is not None and self._prefill.joint is not None):
            return 0.0
        table = self._profile.decode.table("graph") or self._profile.decode.table(self.without_graph)
        if table is None:
            return 0.0
        points = self._kv_points.get(plan.batch_size)
        if points is None:
            points = self._kv_points[plan.batch_size] = decode_points(table, plan.batch_size)
        return max(read_points(points, plan.kv_tokens) - points[0][1], 0.0)
