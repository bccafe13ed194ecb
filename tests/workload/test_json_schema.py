"""The committed JSON schema is the one the models give, and accepts what the loader accepts."""

import json
from pathlib import Path

import jsonschema
import pytest
from workload_text import GOOD, INLINE

from scheduler.workload.file.json_schema import json_schema, json_schema_text
from scheduler.workload.file.yaml_reader import read_yaml

WORKLOADS = Path(__file__).parents[2] / "workloads"


def is_valid(text: str) -> bool:
    return jsonschema.Draft7Validator(json_schema()).is_valid(read_yaml(text, "w.yaml").data)


def test_the_committed_schema_is_up_to_date() -> None:
    committed = (WORKLOADS / "workload.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema_text(), (
        "run: python -m scheduler.workload.file.json_schema > workloads/workload.schema.json"
    )
    assert json.loads(committed) == json_schema()


def test_the_schema_is_draft_07_and_small() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema())
    text = json_schema_text()
    assert len(text.encode()) < 13_500
    for newer in ("$defs", "prefixItems", "discriminator", "dependentRequired", '"ge"', '"gt"'):
        assert newer not in text


@pytest.mark.parametrize("path", sorted(WORKLOADS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_workload_names_the_schema_and_meets_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=workload.schema.json\n")
    assert is_valid(text)


@pytest.mark.parametrize(
    ("old", "new", "valid"),
    [
        ("seed: 3", "seed: 4", True),
        ("some-shipped-name", INLINE, True),
        ("rate_per_s: 8", "stages: [{rate_per_s: [1, 2], duration_s: 3}]", True),
        ("seed: 3", "seed: -1", False),
        ("seed: 3", "sed: 3", False),
        ("name: chat", "name: A B", False),
        ("requests: 2e3", "requests: 0", False),
        ("rate_per_s: 8", "rate_per_s: 0", False),
        ("rate_per_s: 8", "stages: [{rate_per_s: [1, 2, 3], duration_s: 3}]", False),
        ("process: poisson", "process: gamma", False),
        ("distribution: geometric", "distribution: fixd", False),
        ("policy: prefill_first", "policy: mixd", False),
        ("kv_blocks: unlimited", "kv_blocks: many", False),
        ("some-shipped-name", INLINE.replace("6.3", "0"), False),
        ("[1, 2, 4]", "[0]", False),
        ("ttft_ms: 500", "preset: mlperf", False),
    ],
)
def test_the_schema_accepts_and_refuses_what_the_loader_does(old: str, new: str, valid: bool) -> None:
    assert GOOD.count(old) == 1
    assert is_valid(GOOD.replace(old, new)) is valid
