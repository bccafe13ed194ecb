"""When eager host time is known as a range, and which runs depend on it."""

from __future__ import annotations

from scheduler.engine.executor import StepKind
from scheduler.engine.loop import Run
from scheduler.simulate import AnyProfile


def has_range(profile: AnyProfile) -> bool:
    """Tell whether the profile gives eager host time as a range."""
    return profile.has_range


def meets_range(run: Run) -> bool:
    """Return whether any step was not a decode step in a graph: prompts are issued by the host, too."""
    steps = run.steps
    return bool(((steps.kind != StepKind.DECODE) | (steps.capture_size == 0)).any())
