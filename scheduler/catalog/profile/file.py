"""Profile files: strict reading with one clear line per error, and writing with stable bytes."""

from __future__ import annotations

import json
import math
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.errors import InputError
from scheduler.files import write_text

MOST_BYTES = 16 << 20
MOST_ERRORS = 20
VERSIONS: dict[int, type[MeasuredProfile]] = {1: CurveProfile, 2: EngineProfile}
# The order of a file's sections: these, what tells the step times, and those.
_FIRST = ("format", "version", "identity", "model", "memory")
_LAST = ("pool", "jitter", "fit", "provenance")


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with the program, sorted."""
    folder = resources.files("scheduler.catalog") / "profiles"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_profile(name_or_path: str, base_dir: Path | None = None) -> MeasuredProfile:
    """Return a shipped profile by name, or the one in a file (relative to `base_dir`).

    A text with a slash or ending in .json is a path. Raises InputError, one line per problem.
    """
    if "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(".json"):
        path = (base_dir or Path()) / name_or_path
        return read_profile(_read_bounded(path), str(path))
    names = shipped_profiles()
    if name_or_path not in names:
        close = get_close_matches(name_or_path, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"shipped are {', '.join(names)}"
        raise InputError(
            f"profile {name_or_path}: not a shipped profile; {hint} (a path ends in .json; "
            "run.py profile list shows all, run.py profile import --help builds one)"
        )
    entry = resources.files("scheduler.catalog") / "profiles" / f"{name_or_path}.json"
    return read_profile(entry.read_bytes(), f"{name_or_path}.json")


def read_profile(data: bytes, label: str) -> MeasuredProfile:
    """Return the profile in the bytes of a JSON file; `label` names the file in errors."""
    value = _parse(data, label)
    if not isinstance(value, dict):
        raise InputError(f"{label}: expected a JSON object, got {_short(value)}")
    if value.get("format") != "graphpool-profile":
        raise InputError(f'{label}: format: expected "graphpool-profile", got {_short(value.get("format"))}')
    version = value.get("version")
    if type(version) is not int or version not in VERSIONS:
        raise InputError(
            f"{label}: version: expected {' or '.join(map(str, VERSIONS))}, got {_short(version)}; "
            "another release of this program may have written it"
        )
    try:
        return VERSIONS[version].model_validate(value)
    except ValidationError as error:
        raise InputError(error_lines(error, label)) from None


def profile_text(profile: MeasuredProfile) -> str:
    """Return the profile as JSON: fixed key order, a line per list of numbers, no field at its default."""
    sections = profile.model_dump(mode="json", exclude_defaults=True)
    times = (key for key in sections if key not in _FIRST + _LAST)
    order = [*_FIRST, *times, *_LAST]
    return _pretty({key: sections[key] for key in order if key in sections}) + "\n"


def write_profile(path: Path, profile: MeasuredProfile) -> None:
    """Write a profile file, atomically."""
    write_text(path, profile_text(profile))


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the profile: {error.strerror or error} (run.py profile list shows those "
            "shipped, run.py profile import --help builds one)"
        ) from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB, no profile is")
    return data


def _parse(data: bytes, label: str) -> Any:
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=without_repeats, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{label}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{label}: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{label}: {error}") from None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """Return a JSON object's keys and values (json's object_pairs_hook); ValueError for a key given twice."""
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} stands twice in one object")
        result[key] = value
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def error_lines(error: ValidationError, label: str) -> list[str]:
    """Return one line per problem of a validation, each beginning with `label`."""
    problems = error.errors(include_url=False, include_context=True)
    lines = [_line(problem, label) for problem in problems[:MOST_ERRORS]]
    if len(problems) > MOST_ERRORS:
        lines.append(f"{label}: and {len(problems) - MOST_ERRORS} more errors")
    return lines


def _line(problem: Any, label: str) -> str:
    context = problem.get("ctx", {})
    where = [str(part) for part in problem["loc"]]
    if context.get("key"):
        where.append(context["key"])
    key = ".".join(where) or "the file"
    kind = problem["type"]
    if kind == "missing":
        return f"{label}: {key}: expected this key, it is missing"
    if kind == "extra_forbidden":
        return f"{label}: {key}: unknown key"
    if kind == "expectation":
        got = f", got {_short(problem['input'])}" if context.get("got", True) else ""
        return f"{label}: {key}: {problem['msg']}{got}"
    return f"{label}: {key}: {problem['msg']}, got {_short(problem['input'])}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _pretty(value: Any, indent: int = 0) -> str:
    """JSON with objects spread over lines and lists of scalars kept on one."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        inner = ",\n".join(
            f"{pad}{json.dumps(key)}: {_pretty(item, indent + 1)}" for key, item in value.items()
        )
        return "{\n" + inner + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        inner = ",\n".join(f"{pad}{_pretty(item, indent + 1)}" for item in value)
        return "[\n" + inner + "\n" + " " * indent + "]"
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < 1e15:
        return int(value)
    return value
