"""What pydantic found wrong, in plain words, with the key as the file spells it and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from scheduler.catalog.numbers import is_branch
from scheduler.workload.file.not_modelled import not_modelled
from scheduler.workload.file.yaml_reader import Document, KeyPath, Problem, shown

Model = type[BaseModel]

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
}
_TAG_KEYS = ("process", "distribution")


class _Target(NamedTuple):
    """Where a location leads: its keys, the models its last key was looked up in, the models below it."""

    path: KeyPath
    owners: list[Model]
    inner: list[Model]


def problems_of(error: ValidationError, model: Model, document: Document) -> Iterator[Problem]:
    """Yield one located problem per finding of `error`, which checked `document.data` against `model`."""
    for finding in error.errors(include_url=False):
        context: dict[str, Any] = finding.get("ctx", {})
        target = _follow(finding["loc"], model)
        path = target.path
        if context.get("key"):
            path = (*path, *context["key"].split("."))
        if finding["type"] in ("union_tag_invalid", "union_tag_not_found"):
            path = (*path, context["discriminator"].strip("'"))
        if finding["type"] == "extra_forbidden":
            text = _unknown_key(path, target.owners, model)
        elif finding["type"] == "missing":
            text = f"expected {_choices(path[-1], target.owners) or 'a value'}; the key is missing"
        else:
            value = _value_at(document.data, path)
            text = _text(finding["type"], finding["msg"], context, value, target.inner)
        yield Problem(document.place_of(path), path, text)


def suggestion(word: Any, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` where one of the known words is really close, else nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.7) if isinstance(word, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(words: Sequence[str]) -> str:
    """Join words as `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _text(kind: str, message: str, context: Mapping[str, Any], value: Any, inner: list[Model]) -> str:
    if kind == "expectation":
        known = context["known"]
        hint = suggestion(value, known) or (f"; known are {', '.join(known)}" if known else "")
        return f"expected {context['expected']}" + (f", got {shown(value)}{hint}" if context["got"] else "")
    if kind in ("literal_error", "union_tag_invalid", "union_tag_not_found"):
        quoted = context.get("expected") or context.get("expected_tags") or ""
        known = re.findall(r"'([^']+)'", quoted) or [tag for model in inner for tag in _tags(model)]
        return (
            f"expected {listed(known)}, got {shown(value)}{suggestion(value, known) or not_modelled(value)}"
        )
    if kind in ("too_short", "too_long"):
        bound = "at least" if kind == "too_short" else "at most"
        limit = context["min_length" if kind == "too_short" else "max_length"]
        return f"expected a list of {bound} {limit:,} items, got {context['actual_length']}"
    return f"expected {_EXPECTED.get(kind, message)}, got {shown(value)}"


def _unknown_key(path: KeyPath, owners: list[Model], root: Model) -> str:
    known = sorted({key for model in owners for key in model.model_fields})
    tagged = [f" with {key} {tag}" for model in owners for key, tag in _tags_by_key(model)]
    context = tagged[0] if len(tagged) == 1 else ""
    close = suggestion(path[-1], known)
    if not close and len(path) == 1:
        homes = [
            key
            for key, field in root.model_fields.items()
            if any(path[0] in model.model_fields for model in _models_in(field.annotation))
        ]
        close = f"; did you mean '{homes[0]}.{path[0]}'?" if homes else ""
    hint = close or f"; expected one of {', '.join(known)}"
    return f"unknown key{context}{hint}{not_modelled(path[-1])}"


def _choices(key: str | int, owners: list[Model]) -> str:
    """Return the words a missing key could hold, or nothing where it takes more than words."""
    fields = [model.model_fields[str(key)] for model in owners if key in model.model_fields]
    words = [choice for field in fields for choice in get_args(field.annotation) if isinstance(choice, str)]
    return listed(words) if words else ""


def _follow(location: tuple[str | int, ...], root: Model) -> _Target:
    """Follow a location through the models, leaving out the union tags that pydantic puts into it."""
    path: list[str | int] = []
    owners: list[Model] = []
    inner = [root]
    entered = False  # a tag stands directly behind the key that holds the union
    for step in location:
        if isinstance(step, int):
            path.append(step)
            continue
        if entered and (is_branch(step) or any(step in _tags(model) for model in inner)):
            inner = [model for model in inner if is_branch(step) or step in _tags(model)]
            entered = False
            continue
        owners = inner
        fields = [model.model_fields[step] for model in owners if step in model.model_fields]
        inner = [model for field in fields for model in _models_in(field.annotation)]
        path.append(step)
        entered = bool(fields)
    return _Target(tuple(path), owners, inner)


def _models_in(annotation: Any) -> list[Model]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags_by_key(model: Model) -> list[tuple[str, str]]:
    return [
        (key, tag)
        for key in _TAG_KEYS
        if key in model.model_fields
        for tag in get_args(model.model_fields[key].annotation)
    ]


def _tags(model: Model) -> list[str]:
    return [tag for _, tag in _tags_by_key(model)]


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data
