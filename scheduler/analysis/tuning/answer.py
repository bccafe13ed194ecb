"""What a tuning found, in the closed loop or for a log: all that tune.json holds, by the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Literal

from scheduler.analysis.comparison.loads import FewerGraphs, LossOf, RateLimit, Unjudged
from scheduler.analysis.tuning.log_evidence import Contradiction, OwnTimes

SCHEMA_VERSION = 1

Mode = Literal["full_and_piecewise", "piecewise", "decode_only"]


class Advice(StrEnum):
    """For speed: KEEP the own pool; RAISE THE CEILING of a list that ends too early; TRIM its padding.

    Whether fewer graphs than the own pool's would do is a question of its own, see `TuningAnswer.fewer`;
    only who allows fewer than it has is told to TRIM to so many.
    """

    KEEP = "KEEP"
    RAISE_THE_CEILING = "RAISE THE CEILING"
    TRIM = "TRIM"


class Reason(Enum):
    """Why: what decided between the winner and the workload's own pool."""

    OWN_IS_BEST = auto()
    OWN_LEAVES_NO_KV_CACHE = auto()
    WORSE_AT_SOME_LOAD = auto()
    LOSES_BEYOND = auto()
    TOO_FEW_REQUESTS = auto()
    MAY_BE_MILLISECONDS = auto()
    NOT_MET = auto()
    NO_STEADY_STATE = auto()
    TOO_SHORT = auto()
    NOT_SHOWN = auto()
    OWN_ENDS_TOO_EARLY = auto()
    FEWER_DO_AS_WELL = auto()
    LESS_PADDING = auto()
    NO_DIFFERENCE_SHOWN = auto()


@dataclass(frozen=True, slots=True)
class TuningVerdict:
    """The advice, its reason, and what the winner gains beside the objective (None where unknown).

    `mode_change` is what the own list and the winner capture, where that differs. At most `together`
    requests decode together (for 95 % of the tokens) at any load: there is evidence of such sizes.
    `gained` is what the best list gains in the mean over all loads and ends, as a share (0: nothing).
    """

    advice: Advice
    reason: Reason
    kv_tokens_gained: int | None = None
    start_up_s_gained: float | None = None
    graph_memory_bytes_gained: int | None = None
    mode_change: tuple[str, str] | None = None
    together: int | None = None
    gained: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval; None where there is no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedObjective(Estimate):
    """What was tuned for, and what the winner reaches; `on` says on which requests."""

    name: str
    key: str
    unit: str
    lower_is_better: bool
    on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolComparison:
    """One pool (`best`) against another on fresh requests: best − other, its interval, and what it shows."""

    best: Estimate
    other: Estimate
    difference: float
    low: float | None
    high: float | None
    relative: float | None
    shown: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """A pool, what it costs, and its objective on the search's requests where it was tried.

    `without_graph_share`: share of decode steps; `missed_graph_share`: of all steps, those that found no
    graph of the kind that the mode has for them. `fits`: it leaves room for the KV cache. None: unknown.
    """

    sizes: tuple[int, ...]
    padding: bool
    mode: Mode
    graphs: int
    value: float | None
    without_graph_share: float | None
    missed_graph_share: float | None
    graph_memory_bytes: int | None
    kv_tokens_lost: int | None
    capture_s: float | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint(PoolFigures):
    """The best pool met with at most so many graphs."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPool(PoolFigures):
    """The workload's own pool; `origin` says where its sizes come from."""

    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetPool(KnownPool):
    """An engine's pool."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(PoolFigures):
    """A pool that was tried, and how the search came to it."""

    found_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """The own list and the winner at one load and one end of the host range, on fresh requests.

    `own` and `best` are the objective, or where the load overloads the own list (`of` is throughput) requests
    served per second. `loss` is the winner's as a share, negative where it gains; `low` and `high` bound it
    (95 %). `offered_per_s` requests arrive (None: a closed loop), so many that a list is overloaded or not;
    the shares of requests that meet the SLO are None without one.
    """

    rate_factor: float
    host: Literal["low", "high"]
    of: LossOf
    own: float
    best: float
    loss: float
    low: float | None
    high: float | None
    offered_per_s: float | None
    own_overloaded: bool
    best_overloaded: bool
    own_slo_attainment: float | None
    best_slo_attainment: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """The highest rate that meets the SLO (kept up with, without one) at one end of the host range."""

    host: Literal["low", "high"]
    own_per_s: float | None
    own_limited_by: RateLimit
    best_per_s: float | None
    best_limited_by: RateLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstLoss:
    """Where the winner loses most against the own list (a negative `share`: it gains everywhere)."""

    share: float
    rate_factor: float
    host: Literal["low", "high"]
    of: LossOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """What the winner costs above the loads that were judged, where its gaps are wider than the own list's.

    A decode batch of `batch` requests takes longer in it by the share `padding`. Up to `rate_factor` times
    the load was tried: there, or at the first load at which it loses, `loss` is its loss.
    """

    batch: int
    padding: float
    rate_factor: float
    loss: float
    loses: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget:
    """Another max_num_batched_tokens: the list, and its change of the objective against the own setting.

    `mean_change` is over all loads and ends, `worst_change` the worst of them; at the workload's load TTFT
    changes by `ttft_change`.
    """

    max_num_batched_tokens: int
    sizes: tuple[int, ...]
    list: Literal["own", "tuned"]
    mean_change: float
    worst_change: float
    ttft_change: float | None


@dataclass(frozen=True, slots=True)
class SizeHistogram:
    """Number of steps by size: decode steps by batch size, those with prompt tokens by total tokens."""

    decode: Mapping[str, int]
    mixed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBudgets:
    """The limits that the search kept."""

    graphs: int
    max_memory_bytes: float | None
    max_capture_s: float | None
    forced_sizes: tuple[int, ...]
    align: int
    candidates: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningAnswer:
    """What the closed loop found.

    `sizes`, `padding` and `mode` are what is advised for speed: the own pool where the advice is to keep it.
    `fewer` says which of the own sizes would do, `unjudged` why that is not known or none can go. `best` is
    the best that was found within the budgets; `confirmation` compares it with the own pool at the workload's
    load, `loads` and `rates` at all of them. `knee` is the least number of graphs within 1 % of the curve's
    best value; `search` says how each search ended.
    """

    workload: str
    sizes: tuple[int, ...]
    padding: bool
    mode: Mode
    verdict: TuningVerdict
    objective: TunedObjective
    confirmation: PoolComparison
    steady_state: bool
    worst: WorstLoss | None
    beyond: Beyond | None
    fewer: FewerGraphs | None = None
    unjudged: Unjudged | None = None
    loads: tuple[LoadRow, ...]
    rates: tuple[RateRow, ...]
    token_budgets: tuple[TokenBudget, ...]
    own: KnownPool
    best: PoolFigures
    presets: tuple[PresetPool, ...]
    curve: tuple[CurvePoint, ...]
    knee: int | None
    candidates: tuple[Candidate, ...]
    search: tuple[str, ...]
    simulations: int
    histogram: SizeHistogram
    budgets: KeptBudgets
    loop: Literal["closed"] = "closed"
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedSizes:
    """Sizes and the mean time that the logged steps would take with them."""

    sizes: tuple[int, ...]
    mean_step_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCurvePoint(LoggedSizes):
    """The best sizes of at most so many."""

    graphs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAnswer(LoggedSizes):
    """The best sizes for a log's batches, taken as given; `current` are the server's own, where it says so.

    `engine` is what the start-up lines say, in the words of the workload file; `notes` what reading the log
    left open. Where step times depend on KV lengths, `logged_kv_tokens` per request are the log's mean, or
    `assumed_kv_tokens` stand in for it. Sizes are requests of `tokens_per_request` tokens (1 + drafts; None:
    sizes are tokens, for the server drafts and the log does not say how many). `own_times` are the log's
    own steps beside the profile; `contradiction` tells of graphs that the server has and did not use.
    """

    no_graphs_mean_step_ms: float
    steps: int
    curve: tuple[LoggedCurvePoint, ...]
    current: LoggedSizes | None
    forced_sizes: tuple[int, ...]
    histogram: SizeHistogram
    notes: tuple[str, ...]
    mode: Mode
    engine: Mapping[str, Mapping[str, object]]
    assumed_kv_tokens: int | None = None
    logged_kv_tokens: float | None = None
    tokens_per_request: int | None = 1
    own_times: OwnTimes | None = None
    contradiction: Contradiction | None = None
    padding: bool = True
    loop: Literal["open"] = "open"
    schema_version: int = SCHEMA_VERSION
