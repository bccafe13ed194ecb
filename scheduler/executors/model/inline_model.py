"""Step times written into a workload file: whole steps, taken as they are."""

from __future__ import annotations

from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import Mode
from scheduler.engine.executor import StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import Bound, CostModel, Launch, WithoutGraph
from scheduler.executors.model.step_lines import NS_PER_MS, StepLine


class InlineCostModel(CostModel):
    """The cost model of an `InlineProfile`: one straight line over the KV tokens for each size."""

    def __init__(self, profile: InlineProfile, without_graph: WithoutGraph, bound: Bound = "low") -> None:
        super().__init__(without_graph, bound)
        self._profile = profile
        self._decoding: dict[tuple[Mode, int], StepLine] = {}  # of steps with prompts, by tokens decoded

    def decode_line(self, mode: Launch, size: int, live_rows: int | None = None) -> StepLine:
        """See CostModel; whole step times know no launch of their own for PIECEWISE graphs."""
        if mode == "piecewise":
            mode = self.without_graph
        curve = self._profile.decode(mode)
        if curve is None:  # no graph, same engine: eager where the file says nothing else
            mode, curve = "eager", self._profile.decode_eager_ms
        if curve.table is not None:
            if size > len(curve.table):
                raise InputError(
                    f"engine.profile.decode_{mode}_ms.table: a step of {size} rows is reached, "
                    f"the table ends at {len(curve.table)}"
                )
            ms = curve.table[size - 1]
        else:
            ms = (curve.base or 0.0) + (curve.per_request or 0.0) * size
        return StepLine((0,), (ms * NS_PER_MS,), (curve.per_kv_token * NS_PER_MS,), float("inf"))

    def token_work_ms(self, tokens: int) -> float:
        """Return the whole step's time, as the file knows no other."""
        return self.decode_ms("graph", tokens, 0)

    def prompt_step_ns(self, plan: StepPlan) -> float:
        """Return the sum of the prefill line and, in a mixed step, of the decodes' own step time.

        The sum is conservative: a real mixed step reads the weights once for both parts. In a piecewise graph
        the decodes are taken from the graph curve at their own number, for the capture size counts tokens.
        """
        line = self._profile.prefill_ms
        if line is None:
            raise InputError(
                "engine.profile.prefill_ms: a step with prompt tokens needs this key, it is missing"
            )
        ns = (line.base + line.per_token * plan.prefill_tokens) * NS_PER_MS
        if plan.batch_size:
            mode: Mode = self.without_graph if plan.capture_size is None else "graph"
            rows = plan.batch_size + plan.draft_tokens
            decoding = self._decoding.get((mode, rows))
            if decoding is None:
                decoding = self._decoding[mode, rows] = self.decode_line(mode, rows)
            ns += decoding.ns(plan.kv_tokens)
        return ns
