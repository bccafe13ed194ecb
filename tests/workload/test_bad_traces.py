from __future__ import annotations

import gzip
import zlib

import pytest

from scheduler.errors import InputError
from scheduler.workload.traces.read import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "trace.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
GOOD = '{"timestamp": 0, "input_length": 5, "output_length": 6}\n'
WIDE = "request_id,timestamp,input_tokens,output_tokens\n"
BAD = {
    # name: (content, line of the problem or None, what is said)
    "empty": ("", None, "an empty file"),
    "blank": ("\n \r\n\n", None, "an empty file"),
    "quotes over two lines": (VIDUR + '0,"1\n2",1\n', 3, "num_prefill_tokens: expected"),
    "header without rows": (AZURE, 1, "expected rows below the header"),
    "unknown header": ("a,b,c\n1,2,3\n", 1, "expected a header of an Azure, BurstGPT"),
    "no header": ("2023-11-16 18:15:46.68,374,44\n", 1, "expected a header of an Azure, BurstGPT"),
    "missing column": (
        "TIMESTAMP,ContextTokens\n1,2\n",
        1,
        "missing GeneratedTokens (nearest format: Azure CSV)",
    ),
    "duplicate column": (
        AZURE.replace("\n", ",contexttokens\n") + "1,2,3,4\n",
        1,
        "'contexttokens' is given twice",
    ),
    "short row": (VIDUR + "0,1,1\n1,2\n2,1,1\n", 3, "expected 3 columns, got 2"),
    "long row": (VIDUR + "0,1,1\n1,2,3,4\n", 3, "expected 3 columns, got 4"),
    "cut-off last line": (
        VIDUR + "0,1,1\n1,2",
        3,
        "expected 3 columns, got 2 (the last line: is the file cut off?)",
    ),
    "open quote": (VIDUR + '0,1,1\n1,2,"3\n', 3, "expected comma-separated values: unexpected end of data"),
    "NaN tokens": (
        VIDUR + "0,nan,1\n",
        2,
        "num_prefill_tokens: expected a whole number of tokens, got 'nan'",
    ),
    "infinite time": (
        VIDUR + "0,1,1\n\ninf,1,1\n",
        4,
        "arrived_at: expected a time as a finite number, got 'inf'",
    ),
    "1e400": (VIDUR + "1e400,1,1\n", 2, "expected a time within 292 years"),
    "1e999999": (VIDUR + "1e999999,1,1\n", 2, "expected a time within 292 years"),
    "ms as s": (VIDUR + "1787267980082,1,1\n", 2, "expected a time within 292 years"),
    "negative time": (VIDUR + "-1,1,1\n", 2, "arrived_at: expected a time of at least 0, got '-1'"),
    "negative tokens": (
        VIDUR + "0,1,1\n1,-3,1\n",
        3,
        "num_prefill_tokens: expected a number of tokens of at least 0",
    ),
    "fractional tokens": (
        VIDUR + "0,1,1.5\n",
        2,
        "num_decode_tokens: expected a whole number of tokens, got '1.5'",
    ),
    "10^18 tokens": (VIDUR + "0,1000000000000000000,1\n", 2, "expected at most 10,000,000 tokens"),
    "underscores": (VIDUR + "0,1_0,1\n", 2, "got '1_0'"),
    "other digits": (VIDUR + "0,٣,1\n", 2, "expected a whole number of tokens"),
    "hexadecimal": (VIDUR + "0,0x10,1\n", 2, "expected a whole number of tokens"),
    "empty cell": (VIDUR + "0,,1\n", 2, "expected a whole number of tokens, got nothing"),
    "empty time": (WIDE + "1,,2,3\n", 2, "timestamp: expected a time as a finite number, got nothing"),
    "all zero": (VIDUR + "0,1,0\n0,0,1\n", None, "every one of the 2 rows has 0 prompt or 0 output tokens"),
    "month 13": (AZURE + "2023-13-16 18:15:46.68,1,1\n", 2, "TIMESTAMP: expected a date of the calendar"),
    "30 February": (AZURE + "2023-02-30 18:15:46,1,1\n", 2, "expected a date of the calendar"),
    "hour 24": (AZURE + "2023-02-03 24:15:46,1,1\n", 2, "expected a time of day"),
    "second 60": (AZURE + "2023-02-03 23:15:60,1,1\n", 2, "seconds below 60"),
    "year 9999": (AZURE + "9999-02-03 23:15:00,1,1\n", 2, "years 1970 to 2260"),
    "date alone": (AZURE + "2023-02-03,1,1\n", 2, "expected a time like"),
    "ten fractional digits": (AZURE + "2023-02-03 23:15:00.1234567890,1,1\n", 2, "expected a time like"),
    "bad timestamp": (
        AZURE + "2023-02-03 23:15:00,1,1\nyesterday,1,1\n",
        3,
        "TIMESTAMP: expected a time like",
    ),
    "number among dates": (AZURE + "2023-02-03 23:15:00,1,1\n17.5,1,1\n", 3, "expected a time like"),
    "date among numbers": (
        VIDUR + "0,1,1\n2023-02-03 23:15:00,1,1\n",
        3,
        "expected a time as a finite number",
    ),
    "offset then none": (
        AZURE + "2023-02-03 23:15:00+00:00,1,1\n2023-02-03 23:15:01,1,1\n",
        3,
        "mixed time zones: no offset here, +00:00 before",
    ),
    "none then offset": (
        AZURE + "2023-02-03 23:15:00,1,1\n2023-02-03 23:15:01Z,1,1\n",
        3,
        "+00:00 here, no offset",
    ),
    "two offsets": (
        AZURE + "2023-02-03 23:15:00-07:00,1,1\n2023-02-03 23:15:01+02,1,1\n",
        3,
        "mixed time zones: +02:00 here, -07:00 before",
    ),
    "offset of 99 hours": (AZURE + "2023-02-03 23:15:00+99:00,1,1\n", 2, "within 14 hours"),
    "mixed units": (VIDUR + "0,1,1\n9000000000,1,1\n", None, "a span below 146 years, got 285.2"),
    "cached beyond prompt": (
        "arrival_s,prompt_tokens,output_tokens,cached_tokens\n0,5,1,5\n1,5,1,6\n",
        3,
        "cached_tokens: expected at most the 5 prompt tokens, got '6'",
    ),
    "negative cached": (
        "arrival_s,prompt_tokens,output_tokens,cached_tokens\n0,5,1,-1\n",
        2,
        "cached_tokens: expected",
    ),
    "JSON array": ('[{"timestamp": 0}]\n', 1, "expected JSON Lines"),
    "pretty JSON": ('{\n "timestamp": 0\n}\n', 1, "expected one JSON object per line"),
    "unknown keys": ('{"a": 1}\n', 1, "expected keys such as timestamp, input_length"),
    "missing output key": ('{"timestamp": 0, "input_length": 5}\n', 1, "missing output_length"),
    "missing key later": (GOOD + '{"timestamp": 1, "input_length": 5}\n', 2, "missing key output_length"),
    "string as number": (GOOD + GOOD.replace("5", '"5"'), 2, "input_length: expected a number, got '\"5\"'"),
    "boolean as number": (GOOD + GOOD.replace("5", "true"), 2, "input_length: expected a number, got 'true'"),
    "null as number": (GOOD + GOOD.replace("5", "null"), 2, "input_length: expected a number, got 'null'"),
    "list as number": (GOOD + GOOD.replace("5", "[5]"), 2, "input_length: expected a number"),
    "JSON NaN": (
        GOOD + GOOD.replace("5", "NaN"),
        2,
        "input_length: expected a whole number of tokens, got 'NaN'",
    ),
    "JSON Infinity": (
        GOOD + GOOD.replace("0", "-Infinity"),
        2,
        "timestamp: expected a time as a finite number",
    ),
    "JSON fraction": (GOOD + GOOD.replace("5", "5.5"), 2, "expected a whole number of tokens, got '5.5'"),
    "JSON 1e18": (GOOD + GOOD.replace("5", "1e18"), 2, "expected at most 10,000,000 tokens"),
    "JSON of 5,000 digits": (GOOD + GOOD.replace("5", "9" * 5_000), 2, "expected at most 10,000,000 tokens"),
    "duplicate key": (GOOD + GOOD.replace("}", ', "timestamp": 3}'), 2, "key 'timestamp' is given twice"),
    "array line": (GOOD + "[1, 2]\n", 2, "expected a JSON object"),
    "number line": (GOOD + "7\n", 2, "expected a JSON object"),
    "CSV line in JSON": (GOOD + "1,2,3\n", 2, "expected one JSON object per line"),
    "cut-off JSON": (GOOD + GOOD[:30], 2, "(the last line: is the file cut off?)"),
    "deep JSON": (GOOD + '{"a":' + "[" * 100_000 + "\n", 2, "nested too deeply"),
    "cached is a string": (
        GOOD + GOOD.replace("}", ', "cached_tokens": "3"}'),
        2,
        "cached_tokens: expected a number",
    ),
    "binary": (bytes(range(256)) * 4, 1, "expected a text file, got a NUL byte"),
    "Latin-1": (AZURE.encode() + b"0,1,1\n1,\xe9,1\n", 3, "expected UTF-8 text, got byte 0xe9"),
    "UTF-16": (AZURE.encode("utf-16"), 1, "expected a text file in UTF-8, got UTF-16"),
    "old line ends": (VIDUR.replace("\n", "\r") + "0,1,1\r", 1, "expected comma-separated values"),
    "damaged gzip": (b"\x1f\x8b\x08\x00" + b"\xff" * 50, 1, "damaged gzip data"),
    "gzip with a bad sum": (
        gzip.compress(VIDUR.encode() + b"0,1,1\n")[:-8] + b"\0" * 8,
        3,
        "damaged gzip data",
    ),
    "gzip in gzip": (gzip.compress(gzip.compress(AZURE.encode())), 1, "expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_one_clear_line_with_file_and_line(name, write):
    content, line, said = BAD[name]
    path = write(content)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    (message,) = caught.value.lines
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert said in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250


def test_every_bad_cell_is_reported_at_once(write):
    with pytest.raises(InputError) as caught:
        read_trace(path := write(VIDUR + "0,1,1\nx,-1,1.5\n1,1,1\n2,?,1\n"))
    starts = [line.removeprefix(f"{path}:").split(": ")[:2] for line in caught.value.lines]
    assert starts == [
        ["3", "arrived_at"],
        ["3", "num_prefill_tokens"],
        ["3", "num_decode_tokens"],
        ["5", "num_prefill_tokens"],
    ]


def test_many_problems_are_counted_not_listed(write):
    with pytest.raises(InputError) as caught:
        read_trace(write(VIDUR + "0,x,1\n" * 1_234))
    assert len(caught.value.lines) == 21
    assert ":2: " in caught.value.lines[0]
    assert caught.value.lines[-1].endswith("… and 1,214 more")


def test_missing_files_and_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_trace(tmp_path)


def test_cut_off_gzip_names_the_line_where_the_data_ends(write):
    packed = gzip.compress(
        (VIDUR + "".join(f"{i},{i * i % 997 + 1},{i % 89 + 1}\n" for i in range(50_000))).encode()
    )
    for share in (0.3, 0.9, 1.0):
        cut = packed[: int(len(packed) * share) - 1]
        lines = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n")
        with pytest.raises(InputError) as caught:
            read_trace(path := write(cut))
        assert caught.value.lines == [f"{path}:{lines + 1}: the gzip data ends early (cut-off download?)"]


def test_unpacked_size_is_bounded(write):
    path = write(gzip.compress((VIDUR + "0,1,1\n" * 100_000).encode()))
    assert path.stat().st_size < 5_000
    assert len(read_trace(path)) == 100_000
    with pytest.raises(InputError, match=r":\d+: expected at most 100,000 bytes of text, unpacked"):
        read_trace(path, max_text_bytes=100_000)


def test_a_line_is_bounded_before_it_is_held(write):
    bomb = gzip.compress(b"x" * 50_000_000)
    with pytest.raises(InputError, match=":1: expected lines of at most 4,194,304 bytes"):
        read_trace(write(bomb))


def test_rows_are_bounded(write):
    with pytest.raises(InputError, match=":7: expected at most 5 rows, got more"):
        read_trace(write(VIDUR + "0,1,1\n" * 6), max_rows=5)
    with pytest.raises(InputError, match=":6: expected at most 5 rows, got more"):
        read_trace(write(GOOD * 6), max_rows=5)
