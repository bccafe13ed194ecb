"""Whatever the text, the loader answers with a workload or with clear lines, never with another error."""

import string
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_text import GOOD, INLINE

from scheduler.errors import InputError
from scheduler.workload.file.loader import load_workload

WORDS = sorted(
    {
        *GOOD.replace(INLINE, "").split(),
        *INLINE.split(),
        "null",
        "~",
        "<<:",
        "&a",
        "*a",
        "!!int",
        "---",
        "...",
    }
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["trace", "poisson", "fixed", "mixed", "inline", "(inline)", "vllm", "auto"]),
)
NESTED = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["process", "distribution", "values", "sizes", "stages", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "w.yaml"


def lines_of(path: Path, settings: Sequence[str]) -> list[str] | None:
    try:
        load_workload(path, settings)
    except InputError as error:
        return error.lines
    return None


def load(path: Path, content: bytes, *settings: str) -> None:
    path.write_bytes(content)
    lines = lines_of(path, settings)
    assert lines is None or (lines and all(line.isprintable() for line in lines))


@given(content=st.binary(max_size=200))
def test_any_bytes(path: Path, content: bytes) -> None:
    load(path, content)


@given(content=st.text(max_size=200) | st.text(string.punctuation + " \n\tab01", max_size=80))
def test_any_text(path: Path, content: str) -> None:
    load(path, content.encode(errors="surrogatepass"))


@given(
    words=st.lists(
        st.sampled_from([*WORDS, "\n", "\n  ", " ", "[", "]", "{", "}", ",", "- ", "? "]), max_size=40
    )
)
def test_any_words_of_a_workload(path: Path, words: list[str]) -> None:
    load(path, " ".join(words).encode())


@given(
    start=st.integers(0, len(GOOD)),
    length=st.integers(0, 30),
    text=st.text(string.punctuation + string.whitespace + "a01é\x85\u2028", max_size=6),
)
def test_a_good_file_with_any_part_overwritten(path: Path, start: int, length: int, text: str) -> None:
    load(path, (GOOD[:start] + text + GOOD[start + length :]).encode())


@given(
    key=st.sampled_from(
        [
            "name",
            "arrivals",
            "prompt_tokens",
            "engine",
            "engine.profile",
            "pool",
            "pool.sizes",
            "slo",
            "requests",
        ]
    ),
    value=NESTED,
)
def test_any_value_for_any_key(path: Path, key: str, value: object) -> None:
    load(path, GOOD.encode(), f"{key}={flow(value)}")


@given(setting=st.text(max_size=30))
def test_any_setting(path: Path, setting: str) -> None:
    load(path, GOOD.encode(), setting)


def flow(value: object) -> str:
    """Write a value as YAML flow, quoting nothing, so that odd texts stay odd YAML."""
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    return {None: "null", True: "true", False: "false"}.get(value, str(value))  # type: ignore[arg-type]
