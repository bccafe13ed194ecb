"""Workload files to `Workload`, with every error at once as `file:line: key: expected …, got …`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from scheduler.errors import InputError
from scheduler.workload.file.messages import problems_of
from scheduler.workload.file.overrides import (
    ASSUMED_ENGINE,
    override,
    use_engine_preset,
    use_input,
    use_trace,
)
from scheduler.workload.file.yaml_reader import MOST_BYTES, Document, Problem, decoded, read_yaml, shown
from scheduler.workload.inputs.door import read_lengths
from scheduler.workload.inputs.runs import split_run
from scheduler.workload.schema import Workload, disagreements

MOST_REPORTED = 50
TRACE_KEY = ("arrivals", "path")
PROFILE_KEY = ("engine", "profile")
LENGTH_KEYS = (("prompt_tokens", "path"), ("output_tokens", "path"))

Checked = TypeVar("Checked", bound=BaseModel)


def load_workload(
    path: Path | None,
    overrides: Sequence[str] = (),
    trace: Path | None = None,
    source_file: Path | None = None,
) -> Workload:
    """Read and check a workload file.

    `overrides` are `key=value` settings in order, `trace` a request trace that replaces arrivals, lengths and
    the number of requests (before the settings); so does `source_file`, a benchmark's result or a trace,
    whose arrivals are rebuilt where they are another server's doing (see use_input), and which does
    without a workload file: the engine is then ASSUMED. Paths in the file are relative to it, those in
    `overrides`, `trace` and `source_file` to the current folder. Raises InputError with one line per problem.
    """
    if path is None and source_file is None:
        raise InputError("WORKLOAD: expected a workload file, or --from FILE")
    if trace is not None and source_file is not None:
        raise InputError("--trace: expected without --from; give one of them")
    source = "the assumed workload" if path is None else _named(path)
    document = read_yaml(ASSUMED_ENGINE if path is None else read_file(path), source, lines=path is not None)
    if trace is not None:
        use_trace(document, str(trace))
    if source_file is not None:
        use_input(document, read_lengths(source_file), str(source_file), is_alone=path is None)
    override(document, overrides)
    use_engine_preset(document)
    _require_mapping(document)
    disagreeing = [
        Problem(document.place_of(key), key, f"expected {expected}")
        for name, expected in disagreements(document.data)
        for key in [tuple(name.split("."))]
    ]
    workload = check(document, Workload, disagreeing)

    def folder_of(key: tuple[str, str]) -> Path:
        is_in_file = path is not None and document.place_of(key).startswith(f"{source}:")
        return path.parent if path is not None and is_in_file else Path()

    workload = workload.located(folder_of(TRACE_KEY), folder_of(LENGTH_KEYS[0]), folder_of(PROFILE_KEY))
    files = (
        (TRACE_KEY, workload.trace_path),
        (LENGTH_KEYS[0], workload.length_path("prompt_tokens")),
        (LENGTH_KEYS[1], workload.length_path("output_tokens")),
        (PROFILE_KEY, workload.profile_path),
    )
    _raise_for(
        Problem(document.place_of(key), key, f"{_named(file)}: {_not_a_file(file)}")
        for key, file in files
        if file is not None and not split_run(file)[0].is_file()
    )
    if path is None:
        engine = workload.engine
        profile = engine.profile if isinstance(engine.profile, str) else "an inline profile"
        return workload.assuming(
            f"no workload file: engine {engine.preset} with profile {profile}, ASSUMED where no --set says so"
        )
    return workload


def check(document: Document, model: type[Checked], also: Sequence[Problem] = ()) -> Checked:
    """Check a YAML document against a strict model; raises InputError with one line per problem.

    `also` are problems found by other means, to be reported beside those of the model.
    """
    found = [*document.problems, *also]
    known = document.unread | {problem.path for problem in also}
    try:
        checked = model.model_validate(document.data)
    except ValidationError as error:
        found += [problem for problem in problems_of(error, model, document) if problem.path not in known]
        _raise_for(found or problems_of(error, model, document))
        raise
    _raise_for(found)
    return checked


def parse_inline_yaml(text: str, where: str, model: type[Checked]) -> Checked:
    """Read YAML text named `where` (such as a profile file's) as `model`; raises InputError."""
    document = read_yaml(text, where)
    _require_mapping(document)
    return check(document, model)


def read_file(path: Path) -> str:
    """Return the text of a small UTF-8 file; raises InputError for what is not one."""
    try:
        if not path.is_file():
            raise InputError(f"{_named(path)}: {_not_a_file(path)}")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{_named(path)}: expected a readable file: {reason}") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{_named(path)}: expected a file of at most {MOST_BYTES // 1024} KiB, got more")
    return decoded(content, _named(path))


def _require_mapping(document: Document) -> None:
    if isinstance(document.data, dict):
        return
    is_empty = document.data is None and not document.problems
    got = "an empty file" if is_empty else shown(document.data)
    expected = f"expected a mapping of keys such as name and arrivals, got {got}"
    _raise_for([*document.problems, Problem(document.place_of(()), (), expected)])


def _raise_for(problems: Iterable[Problem]) -> None:
    lines = [str(problem) for problem in sorted(problems, key=_line_of)]
    lines = list(dict.fromkeys(lines))
    if len(lines) > MOST_REPORTED:
        lines[MOST_REPORTED:] = [f"… and {len(lines) - MOST_REPORTED} more problems"]
    if lines:
        raise InputError(lines)


def _line_of(problem: Problem) -> float:
    """Return the line a problem is on; options of the command line follow the file."""
    line = re.search(r":([0-9]+)$", problem.place)
    return int(line[1]) if line and not problem.place.startswith("--") else float("inf")


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return "expected a file, got a folder"
    if path.exists():
        return "expected a file, got something else (a pipe or a device)"
    try:
        neighbours = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    except OSError:
        neighbours = []
    same_stem = [name for name in neighbours if Path(name).stem == path.name]
    close = same_stem or get_close_matches(path.name, neighbours, n=1, cutoff=0.8)
    hint = f"; did you mean {_named(path.with_name(close[0]))}?" if close else ""
    return f"no such file{hint}"


def _named(path: Path) -> str:
    name = str(path)
    return name if name.isprintable() else shown(name)
