"""The one place where rooms meet: a workload, its requests, a graph pool and an executor become a run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import numpy as np

from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.numbers import MOST_TOKENS
from scheduler.catalog.profile.profile import DraftCosts, Profile
from scheduler.engine.acceptance import Acceptance
from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import Executor, PipelinedExecutor, StepKind
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.policies import DecodeOnly, Mixed, PrefillFirst
from scheduler.engine.prefix_cache import PrefixCache
from scheduler.engine.records import Run, StepRecords
from scheduler.engine.sglang import Sglang
from scheduler.engine.speculation import Speculation, SpeculativeLoop
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import CostModel
from scheduler.executors.model.draft_cost import DraftCost
from scheduler.workload.arrivals import ClosedLoopArrivals
from scheduler.workload.draw import acceptance_generator, jitter_generator
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Engine, Workload
from scheduler.workload.speculation import LAUNCH_SHARE, SpeculationSettings
from scheduler.workload.speculation import DraftCost as DraftSettings

HIGH = "_high"
_BOUNDS: tuple[Literal["low"], Literal["high"]] = ("low", "high")
POLICIES: dict[str, type[Batching]] = {
    "decode_only": DecodeOnly,
    "prefill_first": PrefillFirst,
    "mixed": Mixed,
    "sglang": Sglang,
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One column of a comparison: a pool, and which curve serves the steps without a graph.

    `bound` picks the low or high end of what the profile gives as a range (eager host time).
    """

    name: str
    pool: GraphPool
    without_graph: Literal["eager", "fallback"]
    bound: Literal["low", "high"] = "low"

    @property
    def column(self) -> str:
        """The name in files and records: the high end of a range has a suffix."""
        return self.name + (HIGH if self.bound == "high" else "")


@dataclass(frozen=True, slots=True)
class PoolCost:
    """What a pool costs before the first request: start-up seconds, memory, and the KV blocks left."""

    capture_s: float | None
    graph_memory_bytes: int | None
    kv_blocks: int | None


def pool_cost(engine: Engine, profile: Profile, pool: GraphPool, name: str = "graphs") -> PoolCost:
    """Return the start-up cost of a pool; `kv_blocks` is None where the KV cache is unlimited.

    With `kv_blocks: auto` what weights, activations and graphs leave of the GPU goes to KV blocks.
    Raises InputError, with the pool's `name`, where not one block is left, and where the profile lacks what
    `kv_blocks: auto` or `delay_start_by_capture` need.
    """
    capture_s = graph_bytes = None
    if profile.pool is not None:
        captures = pool.captures(engine.max_num_seqs, engine.prefill_tokens_per_step)
        capture_s = profile.pool.startup_s(captures)
        graph_bytes = profile.pool.memory_bytes(captures)
    if engine.delay_start_by_capture and capture_s is None:
        raise InputError(
            "engine.delay_start_by_capture: expected false; the profile does not say what capturing takes"
        )
    if engine.kv_blocks == "unlimited":
        return PoolCost(capture_s, graph_bytes, None)
    if engine.kv_blocks == "auto":
        kept_free = _kept_for_graphs(pool, engine, profile, graph_bytes or 0)
        return PoolCost(capture_s, graph_bytes, _blocks_beside(pool, kept_free, engine, profile, name))
    return PoolCost(capture_s, graph_bytes, int(engine.kv_blocks))


def _kept_for_graphs(pool: GraphPool, engine: Engine, profile: Profile, graph_bytes: int) -> int:
    """Return the bytes that the engine keeps from the KV cache for its graphs.

    vLLM sizes the KV cache before it captures: by an estimate, or, in releases whose runner has none, as if
    graphs took nothing. Others are taken to know what their graphs take.
    """
    rules = engine_rules(pool.rules)
    if rules.engine != "vllm" or profile.pool is None:
        return graph_bytes
    if not rules.estimates_graph_memory:
        return 0
    table = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step)
    extrapolated = len(table.full) + (len(table.piecewise) if rules.runner == "v1" else 0)
    return profile.pool.estimated_bytes(table.full + table.piecewise, extrapolated)


def _blocks_beside(pool: GraphPool, graph_bytes: int, engine: Engine, profile: Profile, name: str) -> int:
    """Return the KV blocks that fit beside a pool; raises InputError with what to do where none does."""
    if profile.kv_blocks(engine.block_size) <= engine.null_block:  # raises where nothing at all fits
        raise InputError(
            "engine.kv_blocks: expected a number; one block fits beside weights and activations, and "
            "engine.null_block leaves it unused: raise memory.utilization of the profile"
        )
    try:
        blocks = profile.kv_blocks(engine.block_size, graph_bytes)
    except InputError:
        blocks = 0
    if blocks <= engine.null_block:
        raise InputError(
            f"pool {name}: its {len(pool.sizes)} graphs up to size {pool.sizes[-1]} take "
            f"{graph_bytes / 2**20:,.0f} MiB, which leaves no KV block with engine.kv_blocks auto: capture "
            "fewer or smaller sizes, or raise memory.utilization of the profile"
        )
    return blocks - engine.null_block


def limits_of(engine: Engine, kv_blocks: int | None) -> Limits:
    """Return what bounds a step."""
    return Limits(
        engine.max_num_seqs,
        engine.max_num_batched_tokens,
        engine.max_prefill_tokens or engine.max_num_batched_tokens,
        engine.reserve_full_prompt,
        int(engine.kv_watermark * (kv_blocks or 0)),
        engine.long_prefill_token_threshold,
        engine.prefill_schedule_interval,
    )


def _kv_cache(workload: Workload, requests: Requests, blocks: int | None) -> KVCache:
    """Return a cache that counts blocks, or one that knows what they hold where that is of use."""
    engine = workload.engine
    unhashed_first = engine.unhashed_blocks == "first"
    if requests.prefixes is None or not workload.shares_prefixes:
        return KVCache(blocks, engine.block_size, engine.prefix_caching, unhashed_first)
    keys_of = partial(requests.prefixes.keys, block_size=engine.block_size)
    return PrefixCache(blocks, engine.block_size, keys_of, unhashed_first)


def simulate(
    workload: Workload,
    requests: Requests,
    profile: Profile,
    variant: Variant,
    *,
    replication: int = 0,
    executor: Executor | PipelinedExecutor | None = None,
    run_ahead: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Serve the requests once and return what happened.

    Without an `executor` the step times are the profile's. Raises InputError for what the workload and
    the profile cannot mean together; an executor's failure gives a partial run.
    """
    engine = workload.engine
    cost = pool_cost(engine, profile, variant.pool, variant.name)
    if executor is None:
        executor = variant_model(workload, profile, variant, replication)
    speculation = _speculation(workload, profile, variant, replication, requests)
    batching = POLICIES[engine.policy](
        limits_of(engine, cost.kv_blocks),
        variant.pool,
        _kv_cache(workload, requests, cost.kv_blocks),
        None if isinstance(executor, CostModel) else executor,  # a model has no slots to watch
        _column(requests.prompt_tokens),
        None if requests.cached_tokens is None else _column(requests.cached_tokens),
    )
    if speculation is not None:
        batching.draft(speculation.draft_tokens, speculation.lookahead_tokens)
    limits = _max_tokens(workload, len(requests))
    if isinstance(batching, Sglang):
        batching.answers(_column(requests.output_tokens) if limits is None else limits, limits is None)
    start_ns = round((cost.capture_s or 0) * 1e9) if engine.delay_start_by_capture else 0
    loop = (DecodeLoop if speculation is None else SpeculativeLoop)(
        batching,
        executor,
        _column(requests.arrival_ns),
        _column(requests.prompt_tokens),
        _column(requests.output_tokens),
        reject=_rejection(engine, batching, cost.kv_blocks, requests),
        concurrency=requests.concurrency,
        round_trip_ns=_round_trip_ns(workload),
        max_tokens=limits,
        empty_pause_ns=round(engine.empty_pause_ms * 1e6),
        start_ns=start_ns,
        async_scheduling=decides_ahead(engine, profile),
        run_ahead=run_ahead,
        progress=progress,
    )
    if speculation is not None:
        cast(SpeculativeLoop, loop).draft(executor, speculation)
    run = loop.run()
    if isinstance(executor, CostModel):
        run.remarks = tuple(executor.extrapolations())
    return run


def high_end(profile: Profile, variant: Variant, runs: Iterable[Run]) -> Variant | None:
    """Return the variant at the high end of the profile's range, or None where that would change nothing.

    The range is of the host's time to issue a step's kernels, which matters as soon as any step of the
    variant's `runs` was not a decode step in a graph (prompts are issued by the host, too), or of its time
    to prepare any step. This is the only place that decides whether a variant is run at both ends.
    """
    if not profile.has_range:
        return None
    low, high = (cost_model(profile, variant.without_graph, bound) for bound in _BOUNDS)
    return replace(variant, bound="high") if any(_ends_differ(run.steps, low, high) for run in runs) else None


def _ends_differ(steps: StepRecords, low: CostModel, high: CostModel) -> bool:
    if not len(steps):
        return False
    if ((steps.kind != StepKind.DECODE) | (steps.capture_size == 0)).any():
        return True
    # What preparing a step takes shows most where the GPU has least to do.
    least = int(steps.capture_size.argmin())
    size, kv_tokens = int(steps.capture_size[least]), int(steps.kv_tokens[least])
    return low.decode_ms("graph", size, kv_tokens) != high.decode_ms("graph", size, kv_tokens)


def variant_model(workload: Workload, profile: Profile, variant: Variant, replication: int) -> CostModel:
    """Return the modelled executor of a variant; where `engine.jitter` draws, all meet the same noise."""
    model = cost_model(profile, variant.without_graph, variant.bound)
    model.verifies_drafts = workload.engine.draft_tokens > 0
    jitter = workload.engine.jitter
    if jitter is True or (jitter == "auto" and model.draws_by_itself):
        noise = jitter_generator(workload, replication)
        model.vary(profile, noise, has_graphs=bool(variant.pool.sizes))
    return model


def _speculation(
    workload: Workload, profile: Profile, variant: Variant, replication: int, requests: Requests
) -> Speculation | None:
    """Return how the engine drafts, None where it does not; the same luck for every variant."""
    settings = workload.engine.speculation
    if settings is None or not settings.draft_tokens:
        return None
    recorded = None if requests.acceptance is None else requests.acceptance.tolist()
    drawn = settings.acceptance.draw(acceptance_generator(workload, replication), len(requests), recorded)
    acceptance = Acceptance(
        settings.draft_tokens, drawn.key, rates=drawn.rates, by_place=drawn.by_place, matches=drawn.matches
    )
    work = draft_cost(settings, profile, variant)
    return Speculation(settings.draft_tokens, settings.lookahead_tokens, acceptance, work)


def draft_cost(settings: SpeculationSettings, profile: Profile, variant: Variant) -> DraftCost:
    """Return what drafting takes: what the workload says, else what the profile's engine took, else assumed.

    Assumed is that launching a pass as a graph takes LAUNCH_SHARE of launching a step as one, and launching
    its kernels one by one its share of a step's: for the first pass behind a step that is launched so, for
    all of them without graphs.
    """
    model = cost_model(profile, variant.without_graph, variant.bound)
    model.verifies_drafts = True
    measured = measured_draft(settings, profile)
    if measured is not None:
        return DraftCost(
            model,
            settings.passes,
            pass_ms=measured.pass_ms,
            token_ms=measured.token_ms,
            launch_ms=measured.launch_ms * model.host_speed,
            more_ms={how: ms * model.host_speed for how, ms in measured.more.model_dump().items()},
        )
    draft, share = settings.draft or DraftSettings(), settings.share
    launch_ms, more_ms = draft.launch_ms, {}
    if launch_ms is None and variant.pool.sizes:
        launch_ms = LAUNCH_SHARE * model.launch_ms("graph")
        of_kernels = share or 0.0
        more_ms = {
            "piecewise": of_kernels * model.launch_ms("piecewise"),
            "compiled": of_kernels * model.launch_ms("fallback"),
            "eager": of_kernels * model.launch_ms("eager"),
        }
    elif launch_ms is None:
        launch_ms = (share or 0.0) * model.launch_ms("eager")
    return DraftCost(
        model,
        settings.passes,
        share=share,
        pass_ms=draft.pass_ms or 0.0,
        token_ms=draft.token_ms,
        launch_ms=launch_ms if settings.passes else 0.0,
        more_ms=more_ms,
    )


def measured_draft(settings: SpeculationSettings, profile: Profile) -> DraftCosts | None:
    """Return what drafting costs by the profile, None where that is not known or the workload says it."""
    measured = profile.draft
    if settings.draft is not None or measured is None or measured.method != settings.method:
        return None
    return measured


def assumed_draft(settings: SpeculationSettings, profile: Profile) -> str | None:
    """Return in words what was assumed of the drafter's cost, None where it is known."""
    return None if measured_draft(settings, profile) is not None else settings.assumed_cost


def verify_costs(workload: Workload, profile: Profile, pool: GraphPool) -> list[tuple[int, float]]:
    """Return (tokens, ms) of every decode graph of a pool: all rows live, nothing in the KV cache."""
    model = cost_model(profile, "fallback")
    model.verifies_drafts = True
    engine = workload.engine
    table = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step)
    return [(tokens, model.decode_ms("graph", tokens, 0)) for tokens in table.full]


def _round_trip_ns(workload: Workload) -> int:
    arrivals = workload.arrivals
    return round(arrivals.client_round_trip_ms * 1e6) if isinstance(arrivals, ClosedLoopArrivals) else 0


def decides_ahead(engine: Engine, profile: Profile) -> bool:
    """Return whether steps are decided while the one before is under way.

    What the workload leaves open is as the profile's engine was measured, where prompts join decodes, too.
    """
    if engine.async_scheduling is None:
        return engine.policy in ("mixed", "sglang") and profile.is_asynchronous
    return engine.async_scheduling


def _max_tokens(workload: Workload, requests: int) -> array[int] | None:
    """Return each request's limit where answers end by themselves: the longest that can be drawn."""
    if workload.engine.ends == "foreseen":
        return None
    longest = getattr(workload.output_tokens, "max", None)
    return array("q", [longest or MOST_TOKENS + 1]) * requests


def _column(values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> array[int]:
    column = array("q")
    column.frombytes(np.ascontiguousarray(values, np.int64).tobytes())
    return column


def _rejection(
    engine: Engine, batching: Batching, kv_blocks: int | None, requests: Requests
) -> Callable[[int, int], str | None] | None:
    """Return the test a request passes at arrival, before it may wait; None where all pass it."""
    longest = engine.max_model_len
    capacity = None if kv_blocks is None else kv_blocks * engine.block_size

    def reason(prompt_tokens: int, output_tokens: int) -> str | None:
        if longest is not None and prompt_tokens + output_tokens > longest:
            return "longer than max_model_len"
        if capacity is not None and batching.peak_tokens(prompt_tokens, output_tokens) > capacity:
            return "needs more KV blocks than there are"
        return None

    if not len(requests):
        return None
    hardest = reason(int(requests.prompt_tokens.max()), int(requests.output_tokens.max()))
    return None if hardest is None else reason
