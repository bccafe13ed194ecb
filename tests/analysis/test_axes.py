"""`--over` becomes values exactly as written, and every combination of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.analysis.sweep.axes import combinations, parse_axes
from scheduler.errors import InputError


def values_of(text):
    (axis,) = parse_axes([text])
    return [value.shown for value in axis.values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("arrivals.rate_per_s=0.5,1,1.5,2", [0.5, 1, 1.5, 2]),
        ("arrivals.rate_per_s=1:3:0.5", [1.0, 1.5, 2.0, 2.5, 3.0]),
        ("arrivals.rate_per_s=0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("arrivals.rate_per_s=1:2:0.4", [1.0, 1.4, 1.8]),
        ("engine.max_num_seqs=64:256:64", [64, 128, 192, 256]),
        ("engine.max_num_seqs=4:1:-1", [4, 3, 2, 1]),
        ("requests=1e3:3e3:1e3", [1000, 2000, 3000]),
        ("engine.profile=h100-a,h100-b", ["h100-a", "h100-b"]),
        ("engine.prefix_caching=true,false", [True, False]),
        ('pool=vllm,"1,2,4",[8, 16]', ["vllm", "1,2,4", "8,16"]),
        ("pool={preset: vllm},{sizes: [1, 2]}", ['{"preset": "vllm"}', '{"sizes": [1, 2]}']),
        ("output_tokens={distribution: fixed, value: 3}", ['{"distribution": "fixed", "value": 3}']),
    ],
)
def test_values_are_those_written(text, values):
    assert values_of(text) == values
    assert [type(value) for value in values_of(text)] == [type(value) for value in values]


@given(
    start=st.integers(-50, 50), count=st.integers(1, 60), step=st.integers(1, 40), digits=st.integers(0, 3)
)
def test_a_range_never_skips_repeats_or_rounds_a_value(start, count, step, digits):
    scale = 10**digits
    stop = start + (count - 1) * step
    text = ":".join(f"{number / scale:.{digits}f}" for number in (start, stop, step))
    assert values_of(f"k={text}") == pytest.approx(
        [(start + i * step) / scale for i in range(count)], abs=1e-12
    )
    assert len(set(values_of(f"k={text}"))) == count


def test_a_record_and_the_loader_see_the_same_number():
    for combination in combinations(parse_axes(["arrivals.rate_per_s=0.1:1:0.1"])):
        ((key, value),) = combination.settings
        assert combination.overrides == (f"{key}={value!r}",)


def test_points_are_the_cartesian_product_with_the_last_axis_fastest():
    points = combinations(parse_axes(["a=1,2", "b=x,y,z"]))
    assert [tuple(value for _, value in point.settings) for point in points] == [
        (1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["rate"], "--over rate: expected KEY=V1,V2"),
        (["=1,2"], "expected KEY="),
        (["a="], "expected KEY="),
        (["a=1,,2"], "expected a value between commas"),
        (["a=1,"], "expected a value between commas"),
        (["a=[1,2"], "a quote or bracket is not closed"),
        (['a="x'], "a quote or bracket is not closed"),
        (["a=1,2,1"], "expected each value once, got 1 twice"),
        (["a=1", "a=2"], "--over a: given twice"),
        (["a=1:5:0"], "expected a step that leads from start to stop, got 1:5:0"),
        (["a=5:1:1"], "expected a step that leads from start to stop"),
        (["a=0:1e6:1"], "expected at most 10,000 values"),
        (["a=.nan"], "expected a finite number"),
    ],
)
def test_a_bad_axis_is_one_clear_line(texts, line):
    with pytest.raises(InputError) as caught:
        parse_axes(texts)
    assert len(caught.value.lines) == 1
    assert line in caught.value.lines[0]


def test_too_many_points_are_refused_before_any_work():
    with pytest.raises(InputError, match="at most 10,000 points, got 1,000,000"):
        combinations(parse_axes(["a=1:1000:1", "b=1:1000:1"]))
