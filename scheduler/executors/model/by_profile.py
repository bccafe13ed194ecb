"""The one place that knows which cost model belongs to which kind of profile."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import Profile
from scheduler.executors.model.cost_model import Bound, CostModel, WithoutGraph
from scheduler.executors.model.curve_model import CurveCostModel
from scheduler.executors.model.engine_model import EngineCostModel
from scheduler.executors.model.inline_model import InlineCostModel

MODELS: dict[type, Callable[..., CostModel]] = {
    InlineProfile: InlineCostModel,
    CurveProfile: CurveCostModel,
    EngineProfile: EngineCostModel,
}


def cost_model(profile: Profile, without_graph: WithoutGraph, bound: Bound = "low") -> CostModel:
    """Return the cost model of a profile.

    `without_graph` names the curve of steps without a graph; `bound` is the end of every time that the
    profile knows as a range.
    """
    return MODELS[type(profile)](profile, without_graph, bound)
