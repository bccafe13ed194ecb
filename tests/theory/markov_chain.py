"""The exact law of the decode loop under Poisson arrivals and geometric lengths (a Markov chain).

Every running request stops after each token with probability p, so the number in system at step starts,
n' = n - Bin(min(n, cap), p) + Poisson(rate * t(min(n, cap))), an empty system starting its next step with
one request, is a Markov chain for any step times. With pi its stationary law and T the mean time from step
start to step start, idle time included: E[L] = sum pi (n t + rate t^2 / 2) / T and latency = E[L] / rate.
Prefill is free, admission is first come, first served at step boundaries, KV is unlimited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, exp, lgamma, log

import numpy as np

LARGEST_STATE = 4000
TAIL = 1e-11


@dataclass(frozen=True)
class LoopLaw:
    """Stationary means of the loop; times in the unit of the step times given.

    `step_share[b]` is the share of steps with b running requests (index 0 is zero).
    """

    mean_latency: float
    mean_in_system: float
    mean_batch: float
    mean_token_gap: float
    util: float
    steps_per_time: float
    step_share: np.ndarray


def loop_law(arrival_rate: float, mean_tokens: float, step_time: Sequence[float], cap: int) -> LoopLaw:
    """Return the exact stationary law; `step_time[b]` is the time of a step with b running, 1 to `cap`.

    Raises ValueError where there is no steady state (offered tokens reach the rate of a full batch).
    """
    if arrival_rate * mean_tokens >= cap / step_time[cap]:
        raise ValueError("no steady state: the offered load is 1 or more")
    states = 64 + 4 * cap
    while True:
        law = _stationary(arrival_rate, mean_tokens, tuple(step_time[: cap + 1]), cap, states)
        if law[-states // 8 :].sum() < TAIL:
            break
        states *= 2
        if states > LARGEST_STATE:
            raise ValueError(f"the queue does not fit {LARGEST_STATE} states: too close to saturation")
    number = np.arange(1, states + 1)
    running = np.minimum(number, cap)
    times = np.asarray(step_time, float)[running]
    stop = 1 / mean_tokens
    empties = sum(
        law[n - 1] * stop**n * exp(-arrival_rate * step_time[n]) for n in range(1, min(cap, states) + 1)
    )
    mean_time = float(law @ times)
    cycle = mean_time + empties / arrival_rate
    in_system = float(law @ (number * times + arrival_rate * times**2 / 2)) / cycle
    return LoopLaw(
        mean_latency=in_system / arrival_rate,
        mean_in_system=in_system,
        mean_batch=float(law @ running),
        mean_token_gap=float(law @ (running * times)) / float(law @ running),
        util=mean_time / cycle,
        steps_per_time=1 / cycle,
        step_share=np.bincount(running, weights=law, minlength=cap + 1),
    )


def routed_times(
    sizes: Sequence[int], graph: Sequence[float], eager: Sequence[float], cap: int
) -> list[float]:
    """Return the step time of each batch size when it takes the smallest size that holds it, or none."""
    times = [0.0]
    for batch in range(1, cap + 1):
        held = [size for size in sizes if size >= batch]
        times.append(graph[min(held)] if held else eager[batch])
    return times


def padding_per_step(law: LoopLaw, sizes: Sequence[int]) -> float:
    """Return the mean number of padded slots of a step (steps without a graph pad nothing)."""
    held = [min([size for size in sizes if size >= b], default=b) for b in range(len(law.step_share))]
    return float(law.step_share @ (np.array(held) - np.arange(len(held)))) - float(
        law.step_share[0] * held[0]
    )


def _stationary(
    rate: float, mean_tokens: float, times: tuple[float, ...], cap: int, states: int
) -> np.ndarray:
    """Solve for the law on 1…`states`; transitions beyond are put on the last state."""
    stop = 1 / mean_tokens
    matrix = np.zeros((states, states))
    for number in range(1, states + 1):
        running = min(number, cap)
        after = np.convolve(_stays(running, stop), _arrivals(rate * times[running], states))
        first = number - running  # `after[k]` is the probability of first + k in the system
        reach = min(len(after), states - first)
        row = matrix[number - 1]
        start = 1 if first == 0 else 0
        row[first + start - 1 : first + reach - 1] += after[start:reach]
        if first == 0:
            row[0] += after[0]
        row[-1] += after[reach:].sum()
    system = matrix.T - np.eye(states)
    system[-1] = 1.0
    return np.linalg.solve(system, np.eye(states)[-1])


@cache
def _stays(running: int, stop: float) -> np.ndarray:
    """Return the law of how many of the running requests go on after a step."""
    return np.array([comb(running, k) * (1 - stop) ** k * stop ** (running - k) for k in range(running + 1)])


@cache
def _arrivals(mean: float, states: int) -> np.ndarray:
    """Return the Poisson law, cut where nothing is left."""
    most = min(states, int(mean + 12 * mean**0.5 + 30))
    return np.array([exp(k * log(mean) - mean - lgamma(k + 1)) for k in range(most + 1)])
