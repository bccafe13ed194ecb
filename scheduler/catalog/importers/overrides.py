"""Fields that the importing person states: `--set identity.gpu=…`, `--set memory.gpu_bytes=…`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from scheduler.catalog.profile.file import error_lines
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.errors import InputError

Kind = TypeVar("Kind", bound=MeasuredProfile)


def with_overrides(profile: Kind, overrides: Mapping[str, Any]) -> Kind:
    """Return the profile with dotted fields replaced; their provenance becomes what the person stated.

    Raises InputError with a line per field that does not exist or does not fit.
    """
    if not overrides:
        return profile
    sections = [*profile.sections()]
    value = profile.model_dump(mode="json", exclude_defaults=True)
    errors = []
    for key, stated in overrides.items():
        *parents, last = key.split(".")
        if not parents or parents[0] not in sections:
            close = difflib.get_close_matches(key.split(".")[0], sections, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            errors.append(f"--set {key}: expected a field of {', '.join(sections)}{hint}")
            continue
        place = value
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = stated
        if parents[0] != "identity":
            value["provenance"][key] = {"origin": "derived", "note": "stated by whoever imported the data"}
    if errors:
        raise InputError(errors)
    try:
        return type(profile).model_validate(value)
    except ValidationError as error:
        raise InputError(error_lines(error, "--set")) from None
