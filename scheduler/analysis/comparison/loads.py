"""A comparison's variants from half to twice its load, and whether fewer graphs would hold there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LOADS = (0.5, 1.0, 1.5, 2.0)

RateLimit = Literal["slo", "queue growth", "every load fails", "nothing"]
LossOf = Literal["mean TPOT", "highest rate", "throughput"]


@dataclass(frozen=True, slots=True)
class AtLoad:
    """One variant at one load, a multiple `factor` of the workload's own.

    `rate_per_s` requests arrive (None: a closed loop, or all at once). Means are over the requests that
    count, None where there are none; `slo_attainment` is a share, None without an SLO. `requests_per_s` and
    `output_tokens_per_s` are served up to the last arrival. `overloaded`: the queue grows.
    """

    factor: float
    rate_per_s: float | None
    mean_tpot_ms: float | None
    mean_ttft_ms: float | None
    slo_attainment: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    overloaded: bool


@dataclass(frozen=True, slots=True)
class VariantLoads:
    """One variant (a Column by its name, so each end of a host range) over the loads, lowest first.

    `max_rate_per_s` is the highest rate that meets the SLO, without an SLO the highest that is kept up with;
    `limited_by` says what fails above it. With "nothing" it is the highest rate tried, a lower bound; with
    "every load fails", and in a closed loop, it is None.
    """

    column: str
    at: tuple[AtLoad, ...]
    max_rate_per_s: float | None
    limited_by: RateLimit


@dataclass(frozen=True, slots=True)
class FewerGraphs:
    """A smaller list of `own`'s sizes, judged over all loads and at both ends of a host range.

    `worst_loss` is the largest loss against the own list as a share (0.08: 8 % worse; negative: better),
    met at `worst_factor` times the load in `worst_of`. `would_do`: that is within what is called no loss.
    What it saves: start-up seconds, graph memory, KV tokens; None where the profile does not say.
    """

    own: str
    sizes: tuple[int, ...]
    worst_loss: float
    worst_factor: float
    worst_of: LossOf
    would_do: bool
    start_up_s_saved: float | None
    graph_memory_bytes_saved: int | None
    kv_tokens_gained: int | None


@dataclass(frozen=True, slots=True)
class LoadStudy:
    """Every column of a comparison over the loads; `requests` of one replication were run per load.

    `variants` by the column's name. `slo_share` is the share of requests that must meet the SLO (None: there
    is no SLO). `fewer` is None where no smaller list was found worth judging.
    """

    factors: tuple[float, ...]
    requests: int
    slo_share: float | None
    variants: Mapping[str, VariantLoads]
    fewer: FewerGraphs | None = None
