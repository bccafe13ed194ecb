"""What a log says where the profile or a default would be taken: KV lengths, step times, graphs not used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from scheduler.errors import InputError
from scheduler.workload.server_logs.engine_log import EngineLog

KV_TOKENS_PER_REQUEST = 1024
LIKE_THE_PROFILE = (0.8, 1.25)  # own over predicted; beyond, the profile is another server's


@dataclass(frozen=True, slots=True)
class OwnTimes:
    """The log's own decode steps beside the profile: ranges over batches in ms, and own over predicted."""

    steps: int
    own_ms: tuple[float, float]
    profile_ms: tuple[float, float]
    ratio: float

    @property
    def is_this_server(self) -> bool:
        """Whether the profile could be this server's."""
        low, high = LIKE_THE_PROFILE
        return low <= self.ratio <= high


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Decode steps that ran without a graph although the list holds one: how many, of how many.

    `largest` is the list's largest size (without a list: the largest batch that replayed); `ranks` and
    `together` are the data-parallel ranks and the largest sum of their batches.
    """

    steps: int
    of: int
    largest: int
    is_list_known: bool
    ranks: int
    together: int


def kv_by_batch(log: EngineLog) -> tuple[Callable[[int], float], float | None]:
    """Return KV tokens per request as a function of the batch size, and the log's mean, None if assumed."""
    weights = {batch: log.decode_steps.get(batch, 0) * batch or batch for batch in log.kv_tokens}
    total = sum(weights.values())
    if not total:
        return lambda batch: KV_TOKENS_PER_REQUEST, None
    mean = sum(log.kv_tokens[batch] * weight for batch, weight in weights.items()) / total
    return lambda batch: log.kv_tokens.get(batch, mean), mean


def own_times(log: EngineLog, predicted_ns: Callable[[int, bool | None], float]) -> OwnTimes | None:
    """Hold the log's own step times against the profile's, where the log has any.

    `predicted_ns` is asked for a batch size and whether it replayed a graph (None: not known).
    """
    own: list[float] = []
    predicted: list[float] = []
    for (batch, replayed), times in log.decode_times.items():
        try:
            ms = predicted_ns(batch, replayed) / 1e6
        except InputError:
            continue  # the profile does not reach this batch
        if ms > 0:
            own.append(times.mean_ms)
            predicted.append(ms)
    if not own:
        return None
    ratio = median(one / other for one, other in zip(own, predicted, strict=True))
    steps = sum(times.count for times in log.decode_times.values())
    return OwnTimes(steps, (min(own), max(own)), (min(predicted), max(predicted)), ratio)


def contradiction(log: EngineLog, own: tuple[int, ...] | None) -> Contradiction | None:
    """Return the steps that ran without a graph although there was one, None where there are none."""
    if not log.without_graph:
        return None
    replayed = [batch for batch, count in log.decode_steps.items() if count > log.without_graph.get(batch, 0)]
    largest = max(own or replayed, default=0)
    held = {batch: count for batch, count in log.decode_steps.items() if batch <= largest}
    without = sum(min(count, log.without_graph.get(batch, 0)) for batch, count in held.items())
    if not without:
        return None
    return Contradiction(without, sum(held.values()), largest, bool(own), log.ranks, log.together)
