"""Which requests the tuner searches on, and which it confirms on: never the same ones."""

from __future__ import annotations

from scheduler.analysis.tuning.pool_runs import DrawnRequests
from scheduler.errors import InputError
from scheduler.workload.draw import draw_requests
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

SEARCH_REPLICATIONS = 1
FRESH_REPLICATIONS = 4
WARMUP_SHARE = 0.1
SEARCH_SHARE_OF_TRACE = 0.7
LEAST_TRACE_REQUESTS = 20


def search_and_fresh(
    workload: Workload, fresh: int | None = None
) -> tuple[list[DrawnRequests], list[DrawnRequests], str]:
    """Return the samples to search on, those to confirm on, and the latter in words.

    Drawn workloads: one replication, and `fresh` further ones with seeds of their own. A record happened
    once: its first 70 %, and the rest, from an empty engine. Raises InputError for too short a record.
    """
    if workload.happened_once:
        requests = draw_requests(workload)
        cut = int(len(requests) * SEARCH_SHARE_OF_TRACE)
        if len(requests) < LEAST_TRACE_REQUESTS:
            raise InputError(
                f"tune expects recorded requests, at least {LEAST_TRACE_REQUESTS} of them "
                f"(the last part is held out), got {len(requests)}"
            )
        held_out = _part(requests, cut, len(requests))
        words = f"the held-out last {len(held_out):,} requests of the trace"
        search = DrawnRequests(_part(requests, 0, cut), 0, 0.0, same_time=True)
        return [search], [DrawnRequests(held_out, 0, 0.0, same_time=True)], words
    count = FRESH_REPLICATIONS if fresh is None else fresh
    if not 1 <= count <= 10_000:
        raise InputError(f"--replications: expected 1 to 10,000, got {count}")
    numbers = range(SEARCH_REPLICATIONS + count)
    samples = [
        DrawnRequests(draw_requests(workload, number), number, WARMUP_SHARE, same_time=True)
        for number in numbers
    ]
    return samples[:SEARCH_REPLICATIONS], samples[SEARCH_REPLICATIONS:], f"{count} fresh replications"


def _part(requests: Requests, first: int, last: int) -> Requests:
    arrival_ns = requests.arrival_ns[first:last]
    return Requests(
        arrival_ns=arrival_ns - arrival_ns[0],
        prompt_tokens=requests.prompt_tokens[first:last],
        output_tokens=requests.output_tokens[first:last],
        cached_tokens=None if requests.cached_tokens is None else requests.cached_tokens[first:last],
        concurrency=requests.concurrency,
        prefixes=None if requests.prefixes is None else requests.prefixes.part(first, last),
        acceptance=None if requests.acceptance is None else requests.acceptance[first:last],
    )
