"""Whatever the bytes, reading a trace gives a valid trace or InputError, and never anything else."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.errors import InputError
from scheduler.workload.traces.read import read_trace

HEADERS = [
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "arrived_at,num_prefill_tokens,num_decode_tokens",
    "arrival_s,prompt_tokens,output_tokens,cached_tokens",
]


def read_bytes(content: bytes) -> bool:
    """Read the bytes as a trace; say whether they were one, and check it if so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_bytes(content)
        try:
            trace = read_trace(path)
        except InputError as error:
            lines = error.lines
        else:
            check(trace)
            return True
    assert lines
    assert all(line.startswith(str(path)) and "\n" not in line for line in lines)
    return False


def check(trace):
    """What holds for every trace."""
    assert trace.arrival_ns[0] == 0
    assert np.all(np.diff(trace.arrival_ns) >= 0)
    assert trace.prompt_tokens.min() >= 1
    assert trace.output_tokens.min() >= 1
    assert all("\n" not in line for line in trace.lines)


@given(st.binary(max_size=300))
@example(b"\x1f\x8b")
@example(b"\xef\xbb\xbf")
@example(b"{" * 50_000)
def test_random_bytes_never_crash(content):
    read_bytes(content)
    read_bytes(gzip.compress(content))


@given(st.sampled_from(HEADERS), st.text(max_size=200))
def test_random_text_below_a_header_never_crashes(header, text):
    read_bytes(f"{header}\n{text}".encode())


cells = st.one_of(
    st.integers(-5, 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", " 7 ", "2023-11-16 18:15:46.68", "2023-11-16T18:15:46+00:00", "true", "1e5", "0.1e-400"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=8),
)


@given(st.sampled_from(HEADERS), st.lists(st.lists(cells, min_size=2, max_size=6), max_size=8))
def test_random_rows_below_a_header_never_crash(header, rows):
    read_bytes("\n".join([header, *(",".join(row) for row in rows)]).encode())


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
records = st.fixed_dictionaries(
    {"timestamp": values, "input_length": values, "output_length": values},
    optional={"hash_ids": st.lists(values, max_size=4), "chat_id": values, "cached_tokens": values},
)


@given(st.lists(records, min_size=1, max_size=5))
def test_random_json_records_never_crash(made):
    read_bytes("\n".join(json.dumps(record) for record in made).encode())


@given(st.data())
def test_one_damaged_byte_never_crashes(data):
    good = b'{"timestamp": 0, "input_length": 5, "output_length": 6, "hash_ids": [1, 2]}\n' * 3
    good = data.draw(st.sampled_from([good, gzip.compress(good, mtime=0)]))
    position = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[position] = data.draw(st.integers(0, 255))
    read_bytes(bytes(damaged))
    read_bytes(good[:position])


@given(
    st.lists(
        st.tuples(st.integers(0, 2**62), st.integers(1, 10_000_000), st.integers(1, 10_000_000)),
        min_size=1,
        max_size=30,
    )
)
def test_good_rows_are_read_back_exactly(rows):
    text = "arrival_ns,prompt_tokens,output_tokens\n" + "".join(f"{t},{p},{o}\n" for t, p, o in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        path.write_text(text)
        trace = read_trace(path)
    rows = sorted(rows, key=lambda row: row[0])
    assert trace.arrival_ns.tolist() == [row[0] - rows[0][0] for row in rows]
    assert trace.prompt_tokens.tolist() == [row[1] for row in rows]
    assert trace.output_tokens.tolist() == [row[2] for row in rows]


def test_the_check_itself_can_fail():
    assert read_bytes(b"arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(AssertionError):
        assert read_bytes(b"nonsense")
