"""System prompts and conversations: what requests share, drawn by index."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.errors import InputError
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

ENGINE = {
    "policy": "mixed",
    "prefix_caching": True,
    "profile": {
        "decode_eager_ms": {"base": 1, "per_request": 0},
        "decode_graph_ms": {"base": 1, "per_request": 0},
        "prefill_ms": {"base": 1, "per_token": 0.01},
    },
}


def workload(prefixes: dict, requests: int = 200, **more) -> Workload:
    return Workload.model_validate(
        {
            "name": "talk",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": 5},
            "prompt_tokens": {"distribution": "uniform", "min": 5, "max": 60},
            "output_tokens": {"distribution": "geometric", "mean": 30},
            "prefixes": prefixes,
            "engine": ENGINE,
        }
        | more
    )


TALK = {
    "system_prompts": 4,
    "system_tokens": {"distribution": "uniform", "min": 30, "max": 200},
    "share": 0.7,
    "zipf": 1,
    "turns": {"distribution": "uniform", "min": 1, "max": 5},
    "conversations": 3,
}


def test_a_turn_s_prompt_is_all_that_was_said_and_what_is_new():
    spec = workload(TALK)
    requests = draw_requests(spec)
    new = draw_requests(spec.model_copy(update={"prefixes": None})).prompt_tokens
    prefixes, said, turns = requests.prefixes, {}, {}
    for index, conversation in enumerate(prefixes.conversation.tolist()):
        before = said.get(conversation, int(prefixes.system_tokens[index]))
        assert requests.prompt_tokens[index] == before + new[index]
        said[conversation] = int(requests.prompt_tokens[index] + requests.output_tokens[index])
        turns[conversation] = turns.get(conversation, 0) + 1
    assert set(turns.values()) == {1, 2, 3, 4, 5}
    assert {0, *np.unique(prefixes.system)} == {0, 1, 2, 3}
    assert 0.5 < np.mean(prefixes.system_tokens > 0) < 0.9


def test_keys_are_equal_exactly_where_tokens_are():
    requests = draw_requests(workload(TALK))
    prefixes = requests.prefixes
    for one in range(60):
        for other in range(one):
            keys = prefixes.keys(one, 16), prefixes.keys(other, 16)
            alike = next(
                (i for i, (a, b) in enumerate(zip(*keys, strict=False)) if a != b), min(map(len, keys))
            )
            if prefixes.conversation[one] == prefixes.conversation[other]:
                assert alike == min(map(len, keys))
            elif prefixes.system[one] == prefixes.system[other]:
                shared = min(prefixes.system_tokens[one], prefixes.system_tokens[other]) // 16
                assert alike == min(shared, *map(len, keys))
            else:
                assert alike == 0
            assert not set(keys[0][alike:]) & set(keys[1][alike:])


def test_more_requests_begin_with_the_same_ones():
    few, many = (draw_requests(workload(TALK, count)) for count in (50, 300))
    np.testing.assert_array_equal(few.prompt_tokens, many.prompt_tokens[:50])
    np.testing.assert_array_equal(few.prefixes.conversation, many.prefixes.conversation[:50])


def test_other_draws_do_not_change():
    spec = workload(TALK)
    with_, without = draw_requests(spec), draw_requests(spec.model_copy(update={"prefixes": None}))
    np.testing.assert_array_equal(with_.output_tokens, without.output_tokens)
    np.testing.assert_array_equal(with_.arrival_ns, without.arrival_ns)


def test_a_conversation_that_grows_without_bound_is_one_line():
    prefixes = TALK | {"turns": {"distribution": "fixed", "value": 1_000_000}, "conversations": 1}
    spec = workload(prefixes, 5000, output_tokens={"distribution": "fixed", "value": 9000})
    with pytest.raises(InputError, match="prefixes: expected prompts of at most"):
        draw_requests(spec)


def test_lengths_of_system_prompts_come_from_no_trace():
    with pytest.raises(InputError, match=r"prefixes\.system_tokens: expected a length distribution"):
        draw_requests(workload({"system_tokens": {"distribution": "trace"}}))
