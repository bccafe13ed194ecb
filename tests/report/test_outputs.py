from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.records import mean_record
from scheduler.errors import InputError
from scheduler.report.outputs import read_views, write_results
from scheduler.report.summary import summary_records
from scheduler.report.tables import REQUEST_COLUMNS, STEP_COLUMNS

FILES = {
    "summary.json",
    "results.json",
    "requests.npz",
    "steps.npz",
    "gaps.npz",
    "report.html",
    "latency.png",
    "batch_sizes.png",
    "over_time.png",
    "graph_use.png",
    "step_time.png",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_run_leaves_every_file_and_nothing_else(result_folder: Path) -> None:
    assert set(contents(result_folder)) == FILES


def test_two_equal_runs_give_the_same_bytes_wherever_they_are_written(
    result_folder: Path, tmp_path: Path
) -> None:
    write_results(small_comparison(), tmp_path / "elsewhere", command="python run.py small.yaml")
    again = contents(tmp_path / "elsewhere")
    for name, data in contents(result_folder).items():
        assert again[name] == data, name


def test_tables_have_the_documented_columns_and_no_dates(result_folder: Path, comparison: Comparison) -> None:
    for name, columns in (("requests.npz", REQUEST_COLUMNS), ("steps.npz", STEP_COLUMNS)):
        with np.load(result_folder / name, allow_pickle=False) as table:
            further = {"duration_ns"} if name == "steps.npz" else set()
            assert set(table) == {"variants", "variant", "replication", *columns} | further
            if further:
                assert table["steps"].sum() == len(table["duration_ns"])
            assert list(table["variants"]) == [column.name for column in comparison.columns]
            assert {table[column].shape for column in columns} == {table["variant"].shape}
        with zipfile.ZipFile(result_folder / name) as archive:
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_summary_has_vllms_keys_and_no_null(result_folder: Path, comparison: Comparison) -> None:
    records = json.loads((result_folder / "summary.json").read_text())
    assert [record["variant"] for record in records] == ["graphs", "vllm-64", "eager"]
    for record in records:
        rates = {"request_throughput", "output_throughput", "total_token_throughput"}
        assert not {"completed", "rejected", "unfinished", "duration", *rates} - set(record)
        assert record["backend"] == "graphpool"
        assert record["request_rate"] == 20.0
        assert record["goodput_slo"] == {"ttft": 500, "tpot": 20}
        assert isinstance(record["max_concurrency"], int)
        assert None not in record.values()
        assert not {"date", "host", "out"} & set(record)
    mean = np.mean([summary["mean_ttft_ms"] for summary in comparison.pools[0].summaries])
    assert records[0]["mean_ttft_ms"] == pytest.approx(mean)


def test_a_reader_that_divides_by_every_tpot_key_survives(result_folder: Path) -> None:
    """InferenceX: int(max_concurrency), float() of keys that end in ms, 1000 / float() of keys with tpot."""
    for record in json.loads((result_folder / "summary.json").read_text()):
        int(record["max_concurrency"])
        for key, value in record.items():
            if key.endswith("ms"):
                float(value)
            if "tpot" in key:
                assert 1000 / float(value) > 0


def test_a_trace_or_stages_record_the_rate_that_came_and_a_closed_loop_inf() -> None:
    staged = {"process": "poisson", "stages": [{"rate_per_s": 5, "duration_s": 10}]}
    record = summary_records(small_comparison(requests=40, arrivals=staged))[0]
    assert record["request_rate"] == record["offered_request_rate"]
    closed = {"process": "closed_loop", "concurrency": 4}
    record = summary_records(small_comparison(requests=40, arrivals=closed))[0]
    assert record["request_rate"] == "inf"
    assert record["steady_state"] is True


def test_means_leave_out_what_one_replication_lacks() -> None:
    first: dict[str, Any] = {"a": 1, "b": 2.0, "p99_ttft_ms": 3.0, "goodput_slo": {"ttft": 1}}
    assert mean_record([first, {"a": 1, "b": 4.0, "goodput_slo": {"ttft": 1}}]) == {
        "a": 1,
        "b": 3.0,
        "goodput_slo": {"ttft": 1},
    }


def test_results_hold_everything_and_nothing_of_the_machine(result_folder: Path) -> None:
    text = (result_folder / "results.json").read_text()
    results = json.loads(text)
    assert results["command"] == "python run.py small.yaml"
    assert results["workload"]["engine"]["max_num_seqs"] == 64
    assert [len(variant["replications"]) for variant in results["variants"]] == [2, 2, 2]
    assert str(result_folder) not in text


def test_a_failed_run_is_marked_partial_and_still_complete(tmp_path: Path) -> None:
    failed = small_comparison(requests=40, replications=1)
    failed.failure = "step 7: device lost"
    failed.eager.runs.clear()
    failed.eager.summaries.clear()
    write_results(failed, tmp_path, command="x")
    assert json.loads((tmp_path / "results.json").read_text())["partial"] is True
    assert all(record["partial"] is True for record in json.loads((tmp_path / "summary.json").read_text()))
    assert "device lost" in (tmp_path / "report.html").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_several_folders_are_overlaid_under_their_names(result_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(result_folder, tmp_path / "later")
    names = [view.name for view in read_views([result_folder, tmp_path / "later"])]
    assert names == [f"{run}/{name}" for run in ("small", "later") for name in ("graphs", "vllm-64", "eager")]
    with pytest.raises(InputError, match="same name"):
        read_views([result_folder, result_folder])


def damage(folder: Path, name: str, how: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "junk":
        path.write_bytes(b"\x00\xff junk")
    elif how == "empty object":
        path.write_text("{}")


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in ("results.json", "steps.npz", "gaps.npz") for how in ("missing", "cut", "junk")]
    + [("results.json", "empty object")],
)
def test_a_damaged_result_folder_is_one_clear_line(
    result_folder: Path, tmp_path: Path, name: str, how: str
) -> None:
    shutil.copytree(result_folder, tmp_path / "run")
    damage(tmp_path / "run", name, how)
    with pytest.raises(InputError) as error:
        read_views([tmp_path / "run"])
    assert len(error.value.lines) == 1
    assert name in error.value.lines[0]


def test_a_table_of_pickled_objects_is_refused(result_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(result_folder, tmp_path / "run")
    with np.load(result_folder / "requests.npz", allow_pickle=False) as table:
        columns = dict(table)
    columns["status"] = np.array([{"x": 1}] * len(columns["status"]), dtype=object)
    np.savez(tmp_path / "run" / "requests.npz", **columns)
    with pytest.raises(InputError, match="cannot be read"):
        read_views([tmp_path / "run"])
