"""The JSON schema of workload files, for completion and checks in editors.

`python -m scheduler.workload.file.json_schema` prints it; it is committed as workloads/workload.schema.json.
The YAML language server reads JSON Schema up to draft 7, so newer spellings are rewritten. It knows each
key's type and range; what must hold between keys is left to the loader.
"""

from __future__ import annotations

import json
from typing import Any

from scheduler.workload.schema import Workload

# Titles repeat the keys; upper bounds only guard against overflow, and the loader names them.
_OF_NO_USE = ("title", "discriminator", "maximum", "maxItems")


def json_schema() -> dict[str, Any]:
    """Return the draft-07 JSON schema of a workload file."""
    schema: dict[str, Any] = _draft_07(Workload.model_json_schema())
    schema["properties"]["pool"]["default"] = {"preset": "vllm"}
    # The loader fills in the policy of an engine preset before the model asks for it.
    engine = schema["definitions"]["Engine"]
    engine["required"].remove("policy")
    engine["anyOf"] = [{"required": ["policy"]}, {"required": ["preset"]}]
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "graphpool workload", **schema}


def json_schema_text() -> str:
    """Return the schema as the committed file holds it: one line per key or definition."""
    schema = json_schema()
    lines = ["{"]
    for key, value in schema.items():
        if key in ("properties", "definitions"):
            inner = [f"  {json.dumps(name)}: {_compact(part)}" for name, part in value.items()]
            lines.append(f' "{key}": {{\n' + ",\n".join(inner) + "\n },")
        else:
            lines.append(f' "{key}": {_compact(value)},')
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([*lines, "}", ""])


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _draft_07(node: Any) -> Any:
    """Rewrite pydantic's draft 2020-12 as draft 07 and drop what an editor has no use for."""
    if isinstance(node, list):
        return [_draft_07(part) for part in node]
    if isinstance(node, str):
        return node.replace("#/$defs/", "#/definitions/") if node.startswith("#/$defs/") else node
    if not isinstance(node, dict):
        return node
    rewritten: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            name = "definitions" if key == "$defs" else key
            rewritten[name] = {inner: _draft_07(part) for inner, part in value.items()}
        elif key == "prefixItems":
            rewritten["items"] = _draft_07(value)
        elif key in _OF_NO_USE or (key == "default" and value is None):
            continue
        elif key == "description":
            rewritten[key] = " ".join(value.split("\n\n")[0].split())
        else:
            rewritten[key] = _draft_07(value)
    if "const" in rewritten or "enum" in rewritten:
        del rewritten["type"]
    if isinstance(rewritten.get("items"), list):
        rewritten["maxItems"] = len(rewritten["items"])
    return _without_null(rewritten)


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """Write `anyOf: [X, null]` as X: a key without a value is legal, but nothing to suggest."""
    choices = [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]
    if "anyOf" not in node or len(choices) == len(node["anyOf"]):
        return node
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}


if __name__ == "__main__":
    print(json_schema_text(), end="")
