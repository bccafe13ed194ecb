from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scheduler.errors import InputError
from scheduler.workload.draw import draw_requests, generators, jitter_generator
from scheduler.workload.lengths import TraceLength
from scheduler.workload.schema import Workload

S = 1_000_000_000
PROFILE = {
    "decode_eager_ms": {"base": 12, "per_request": 0.2},
    "decode_graph_ms": {"base": 6, "per_request": 0.3},
}


def workload(**keys):
    made = {
        "name": "drawn",
        "requests": 1_000,
        "arrivals": {"process": "poisson", "rate_per_s": 8},
        "prompt_tokens": {"distribution": "lognormal", "mean": 1155, "p99": 4142, "max": 14050},
        "output_tokens": {"distribution": "geometric", "mean": 211, "max": 1000},
        "engine": {"policy": "decode_only", "profile": PROFILE, "kv_blocks": "unlimited"},
        **keys,
    }
    return Workload.model_validate({key: value for key, value in made.items() if value is not None})


def columns(requests):
    return {
        name: getattr(requests, name).tolist() for name in ("arrival_ns", "prompt_tokens", "output_tokens")
    }


@pytest.mark.parametrize("replication", [0, 3])
def test_streams_are_spawned_by_replication_and_then_by_purpose(replication):
    """SeedSequence(seed).spawn(R)[r].spawn(purposes), whatever R is."""
    children = np.random.SeedSequence(17).spawn(5)[replication].spawn(6)
    made = generators(17, replication)
    assert list(made) == ["arrivals", "prompt_tokens", "output_tokens", "jitter", "prefixes", "acceptance"]
    for generator, child in zip(made.values(), children, strict=True):
        assert generator.random() == np.random.default_rng(child).random()


def test_the_same_seed_draws_the_same_requests():
    assert columns(draw_requests(workload(seed=5))) == columns(draw_requests(workload(seed=5)))


def test_seeds_and_replications_draw_different_requests():
    drawn = [
        draw_requests(workload(seed=5)),
        draw_requests(workload(seed=6)),
        draw_requests(workload(seed=5), replication=1),
    ]
    for name in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert len({tuple(columns(requests)[name]) for requests in drawn}) == 3


def test_prompt_and_output_lengths_are_independent():
    requests = draw_requests(workload(requests=20_000))
    correlation = np.corrcoef(requests.prompt_tokens, requests.output_tokens)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(20_000)


def test_a_longer_run_starts_with_the_same_requests():
    short, long = columns(draw_requests(workload())), columns(draw_requests(workload(requests=3_000)))
    timed = columns(draw_requests(workload(requests=None, duration_s=60)))
    for name, values in long.items():
        assert values[:1_000] == short[name]
        assert values[: len(timed[name])] == timed[name]
    assert timed["arrival_ns"][-1] < 60 * S <= long["arrival_ns"][len(timed["arrival_ns"])]


def test_arrivals_do_not_depend_on_the_lengths_and_the_other_way_round():
    usual = columns(draw_requests(workload()))
    other = columns(
        draw_requests(
            workload(
                arrivals={"process": "gamma", "rate_per_s": 1, "burstiness": 0.25},
                prompt_tokens={"distribution": "uniform", "min": 5, "max": 9},
            )
        )
    )
    assert other["output_tokens"] == usual["output_tokens"]
    assert other["arrival_ns"] != usual["arrival_ns"]


def test_jitter_has_a_stream_of_its_own():
    jitter = jitter_generator(workload(seed=5), 2)
    assert jitter.random() == generators(5, 2)["jitter"].random()
    assert jitter.random() not in {stream.random() for stream in generators(5, 2).values()}


def test_closed_loop_says_its_concurrency():
    requests = draw_requests(workload(arrivals={"process": "closed_loop", "concurrency": 4}, requests=10))
    assert requests.concurrency == 4
    assert requests.arrival_ns.tolist() == [0] * 10
    assert draw_requests(workload()).concurrency is None


@pytest.mark.parametrize(
    ("length", "values"),
    [
        ({"distribution": "fixed", "value": 7}, {7}),
        ({"distribution": "uniform", "min": 5, "max": 7}, {5, 6, 7}),
        ({"distribution": "geometric", "mean": 2, "min": 3, "max": 4}, {3, 4}),
        ({"distribution": "lognormal", "mean": 9, "p99": 90, "min": 3, "max": 4}, {3, 4}),
        ({"distribution": "discrete", "values": [2, 9], "weights": [1, 3]}, {2, 9}),
        ({"distribution": "discrete", "values": [2, 9]}, {2, 9}),
        ({"distribution": "quantiles", "values": [2, 2, 3]}, {2, 3}),
    ],
)
def test_every_distribution_of_a_workload_file_is_drawn(length, values):
    requests = draw_requests(workload(prompt_tokens=length, output_tokens=length))
    assert set(requests.prompt_tokens.tolist()) == values
    assert set(requests.output_tokens.tolist()) == values


def test_every_arrival_process_is_drawn():
    stages = [{"rate_per_s": 8, "duration_s": 2}, {"rate_per_s": [8, 0], "duration_s": 4}]
    for arrivals in (
        {"process": "constant", "rate_per_s": 4},
        {"process": "gamma", "burstiness": 0.5, "rate_per_s": 4},
        {"process": "poisson", "stages": stages},
        {"process": "constant", "stages": stages},
    ):
        requests = draw_requests(workload(arrivals=arrivals, requests=2_000))
        # Stages bring 16 + 16 requests in 6 s; the others 4 per second.
        rate = 32 / 6 if "stages" in arrivals else 4
        assert requests.arrival_ns[-1] / S == pytest.approx(2_000 / rate, rel=0.1)


TRACE = "arrival_s,prompt_tokens,output_tokens,cached_tokens\n5,10,1,8\n6,20,2,0\n8,30,3,30\n"


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return {"process": "trace", "path": str(path)}


def from_trace(trace, **keys):
    given = {"requests": None, "prompt_tokens": None, "output_tokens": None, **keys}
    return draw_requests(workload(arrivals=trace, **given))


def test_a_trace_gives_arrivals_lengths_and_notes(trace):
    requests = from_trace(trace)
    assert columns(requests) == {
        "arrival_ns": [0, S, 3 * S],
        "prompt_tokens": [10, 20, 30],
        "output_tokens": [1, 2, 3],
    }
    assert requests.cached_tokens.tolist() == [8, 0, 30]
    assert requests.notes[0].startswith("trace trace.csv: request CSV, times in s, 3 rows over 3 s")


def test_time_scale_stretches_the_trace(trace):
    assert from_trace({**trace, "time_scale": 2}).arrival_ns.tolist() == [0, 2 * S, 6 * S]


def test_requests_and_duration_keep_the_first_rows_of_a_trace_and_say_so(trace):
    for keys, count, said in (
        ({"requests": 2}, 2, "only the trace's first 2 of 3 requests"),
        ({"requests": 9}, 3, "the trace has 3 requests, not the 9 asked for"),
        ({"duration_s": 1}, 1, "only the trace's first 1 s: 1 of 3 requests"),
    ):
        requests = from_trace(trace, **keys)
        assert {len(getattr(requests, field.name)) for field in dataclasses.fields(requests)[:4]} == {count}
        assert requests.notes[-1].startswith(said)


def test_lengths_of_the_file_replace_those_of_the_trace_and_say_so(trace):
    requests = from_trace(trace, prompt_tokens={"distribution": "fixed", "value": 9})
    assert requests.prompt_tokens.tolist() == [9, 9, 9]
    assert requests.output_tokens.tolist() == [1, 2, 3]
    assert requests.cached_tokens.tolist() == [8, 0, 9]
    assert requests.notes[-1] == "prompt_tokens: drawn as the workload file says, not the trace's own"


def test_errors_of_a_trace_name_its_file(trace, tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE + "9,x,1,0\n")
    with pytest.raises(InputError, match=r"trace\.csv:5: prompt_tokens: expected a whole number"):
        from_trace(trace)


def test_a_length_that_cannot_be_drawn_names_its_key():
    broken = workload().model_copy(update={"output_tokens": TraceLength(distribution="trace")})
    with pytest.raises(InputError, match=r"^output_tokens: expected a length distribution to draw from"):
        draw_requests(broken)
