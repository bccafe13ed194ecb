"""The joint attention table: multilinear reading, cells nobody measured, and several prompts in one step."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.catalog.profile.curves import Prefill
from scheduler.catalog.profile.tables import Curve, JointAttention
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.prefill_cost import JointTable, PrefillCost

AXES = ((0.0, 16.0, 64.0, 256.0), (0.0, 100.0, 1000.0), (0.0, 1.0, 8.0, 32.0), (0.0, 16.0, 256.0, 1024.0))


def bilinear(chunk: float, cached: float, decodes: float, kv: float) -> float:
    """Linear in each axis alone, so that interpolation and straight continuation are exact."""
    return 1e-4 * chunk * cached + 2e-5 * decodes * kv + 1e-6 * chunk * decodes + 0.003 * chunk


def table(drop=lambda *cell: False) -> JointTable:
    cells = [None if drop(*cell) else bilinear(*cell) for cell in product(*AXES)]
    return JointTable(
        JointAttention(
            chunk_tokens=AXES[0],
            cached_tokens=AXES[1],
            decodes=AXES[2],
            decode_kv_tokens=AXES[3],
            ms=tuple(cells),
        )
    )


positions = st.tuples(st.floats(0, 256), st.floats(0, 1000), st.floats(1, 32), st.floats(0, 1024))


@given(positions)
def test_a_multilinear_table_is_read_exactly_between_its_points(position):
    value, extrapolated = table().read(position)
    assert value == pytest.approx(bilinear(*position), abs=1e-9)
    assert not extrapolated


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ((256, 1000, 32, 2048), True),
        ((512, 0, 0, 0), True),
        ((256, 1000, 32, 1024), False),
        ((0, 0, 33, 5), True),
    ],
)
def test_reading_beyond_an_axis_is_reported_and_goes_on_straight(position, expected):
    value, extrapolated = table().read(position)
    assert extrapolated is expected
    assert value == pytest.approx(bilinear(*position))


def too_large(chunk: float, cached: float, decodes: float, kv: float) -> bool:
    return decodes * kv + chunk + cached > 9000


def test_a_cell_too_large_to_measure_is_continued_from_its_neighbours_and_reported():
    full, partial = table(), table(too_large)
    assert partial.read((64, 100, 32, 1024)) == (pytest.approx(full.read((64, 100, 32, 1024))[0]), True)
    assert partial.read((64, 100, 8, 1024)) == (pytest.approx(full.read((64, 100, 8, 1024))[0]), False)
    # Half of the way to an unmeasured cell is extrapolated too.
    assert partial.read((64, 100, 20, 1024))[1]


def test_combinations_that_mean_nothing_need_not_be_measured():
    def meaningless(chunk: float, cached: float, decodes: float, kv: float) -> bool:
        return (not chunk and cached > 0) or (not decodes and kv > 0) or (decodes > 0 and not kv)

    partial = table(lambda *cell: meaningless(*cell) or cell[0] == cell[2] == 0)
    assert partial.read((0, 1000, 8, 256)) == (pytest.approx(bilinear(0, 0, 8, 256)), False)
    assert partial.read((64, 100, 0, 500)) == (pytest.approx(bilinear(64, 100, 0, 0)), False)
    assert partial.read((0, 0, 0, 0)) == (0.0, False)
    value, extrapolated = partial.read((16, 0, 8, 0))
    assert (value, extrapolated) == (pytest.approx(bilinear(16, 0, 8, 0)), False)


def test_a_table_without_its_small_cells_is_refused():
    with pytest.raises(InputError, match="lacks the small cells"):
        table(lambda chunk, cached, decodes, kv: chunk <= 16 and decodes > 0)


def step_ms(*chunks: tuple[int, int], decodes: int = 0, kv_tokens: int = 0) -> float:
    attention = JointAttention(
        chunk_tokens=AXES[0],
        cached_tokens=AXES[1],
        decodes=AXES[2],
        decode_kv_tokens=AXES[3],
        ms=tuple(bilinear(*cell) for cell in product(*AXES)),
    )
    cost = PrefillCost(Prefill(tokens=Curve(at=(1.0, 2.0), ms=(0.0, 0.0)), attention=attention))
    parts = tuple(PrefillChunk(i, tokens, cached, True) for i, (tokens, cached) in enumerate(chunks))
    kind = StepKind.MIXED if decodes else StepKind.PREFILL
    return cost.gpu_ms(StepPlan(kind, decodes, None, kv_tokens, parts), 0.0)[0]


def test_several_chunks_stand_as_one_with_the_same_tokens_and_pairs():
    # (64 tokens after 500) and (64 after 100): pairs 64·(500 + 32) + 64·(100 + 32) = 128·(268 + 64).
    assert step_ms((64, 500), (64, 100)) == pytest.approx(step_ms((128, 268)))
    assert step_ms((64, 500), (64, 100), decodes=8, kv_tokens=800) == pytest.approx(
        step_ms((128, 268), decodes=8, kv_tokens=800)
    )


def test_fresh_prompts_together_cost_less_than_one_prompt_of_all_their_tokens_and_more_than_one_of_them():
    for decodes in (0, 8):
        together = step_ms(*[(64, 0)] * 4, decodes=decodes, kv_tokens=100 * decodes)
        assert step_ms((64, 0), decodes=decodes, kv_tokens=100 * decodes) <= together + 1e-9
        assert together < step_ms((256, 0), decodes=decodes, kv_tokens=100 * decodes)
