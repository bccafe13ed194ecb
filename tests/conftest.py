"""Shared by every test: property tests try the same examples on every run unless asked otherwise.

`HYPOTHESIS_PROFILE=nightly pytest` draws fresh examples, many more of them, and prints how to repeat a
failure.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

import scheduler.compiled

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("push", derandomize=True, deadline=None, database=None, suppress_health_check=_SLOW)
settings.register_profile(
    "nightly", deadline=None, database=None, max_examples=5_000, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "push"))

# The note on a build that its sources have left behind would stand in the output that tests read.
if scheduler.compiled.how == scheduler.compiled.STALE:
    scheduler.compiled.how += ", as the first line of this run says"
    os.environ[scheduler.compiled.SWITCH] = "1"


def pytest_report_header() -> str:
    return f"decode loop: {scheduler.compiled.how}"
