"""Numbers in words."""

from __future__ import annotations

import pytest

from scheduler.report.wording import percent_text


@pytest.mark.parametrize(
    ("share", "text"),
    [(-0.0001, "+0.0 %"), (0.0, "+0.0 %"), (-0.0006, "−0.1 %"), (-0.424, "−42.4 %"), (None, "–")],
)
def test_a_change_that_rounds_to_nothing_has_no_minus_sign(share, text):
    assert percent_text(share) == text
