"""Workload files: read strictly, changed from the command line, every error at once.

- `json_schema.py` The JSON schema of workload files, for completion and checks in editors.
- `loader.py` Workload files to `Workload`, with every error at once as `file:line: key: expected …, got …`.
- `messages.py` What pydantic found wrong, in plain words, with the key as the file spells it and a suggestion.
- `not_modelled.py` Words of engines for what is not modelled, so that an unknown key says more than that it is unknown.
- `overrides.py` Changes to a workload file before it is checked: `--set key=value`, `--trace file`, an engine preset.
- `yaml_reader.py` YAML text to plain values, with the line of every key, and without YAML's traps.
"""
