"""Inside vLLM: a row per engine step, in files that the importers read.

- `engine_facts.py` What a running vLLM engine says of itself: the settings a profile needs, as `NAME.json` has them.
- `files.py` The files of a recording: their names, their columns, and the room they may take.
- `hooks.py` The hooks in vLLM's scheduler and model runner: clock readings and counts, appended to a row per step.
- `plugin.py` What vLLM calls in each of its processes where graphpool is installed; imports nothing unless asked.
- `writer.py` The one thread that writes: takes finished rows from a queue, a few at a time, off the engine's path.
"""
