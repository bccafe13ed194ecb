"""What drafting takes after each step: passes of the drafter on the GPU, and launching them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from scheduler.catalog.profile.engine import OF_MODE, Launching
from scheduler.engine.executor import StepPlan
from scheduler.executors.model.cost_model import CostModel
from scheduler.executors.model.step_lines import NS_PER_MS


class DraftCost:
    """The `DraftWork` of an engine: `passes` one after the other behind every step.

    The first pass computes the step's tokens, padding included, for the drafter has a KV cache of its own to
    fill; the others one token per request that is drafted for. A pass takes `share` of the target model's
    time for as many tokens with nothing in the KV cache, or `pass_ms` + `token_ms` per token. Launching takes
    `launch_ms` per pass, and behind a step not in a FULL graph what `more_ms` says of its launching, too.
    """

    def __init__(
        self,
        model: CostModel,
        passes: int,
        *,
        share: float | None = None,
        pass_ms: float = 0.0,
        token_ms: float = 0.0,
        launch_ms: float = 0.0,
        more_ms: Mapping[str, float] | None = None,
    ) -> None:
        self._passes = passes
        self._launch_ms = launch_ms
        self._more_ms = more_ms or {}
        self._without_graph: Launching = OF_MODE[model.without_graph]

        @lru_cache(maxsize=4096)
        def pass_ns(tokens: int) -> int:
            ms = pass_ms + token_ms * tokens if share is None else share * model.token_work_ms(tokens)
            return round(ms * NS_PER_MS)

        self._pass_ns = pass_ns

    def gpu_ns(self, plan: StepPlan, rows: int) -> int:
        """Return the GPU's time; `rows` requests are drafted for."""
        if not self._passes:
            return 0
        tokens = max(plan.batch_size + plan.draft_tokens + plan.prefill_tokens, plan.capture_size or 0)
        further = (self._passes - 1) * self._pass_ns(rows) if rows and self._passes > 1 else 0
        return self._pass_ns(tokens) + further

    def launch_ns(self, plan: StepPlan, rows: int) -> int:
        """Return how long the launching thread is busy."""
        passes = self._passes if rows else min(self._passes, 1)
        more_ms = self._more_ms.get(self._launching(plan), 0.0) if passes else 0.0
        return round((passes * self._launch_ms + more_ms) * NS_PER_MS)

    def _launching(self, plan: StepPlan) -> Launching:
        if plan.capture_size is None:
            return self._without_graph
        return "piecewise" if plan.piecewise or plan.prefill else "full"
