"""What a file from outside is, in words: what was read, left out and missing, and what it may be used for."""

from __future__ import annotations

from scheduler.report.wording import count_text, number_text
from scheduler.workload.inputs.found import Found, Use

COMMANDS = {
    Use.ARRIVALS: "run.py --from FILE, run.py --trace FILE",
    Use.LENGTHS: "run.py --from FILE",
    Use.LATENCIES: "run.py validate WORKLOAD --measured FILE",
    Use.BATCHES: "run.py tune --from FILE --profile NAME",
    Use.STEP_TIMES: "beside the profile's in run.py tune --from FILE",
    Use.ACCEPTANCE: "tokens to a request and step, said in run.py tune --from FILE",
    Use.START_UP: "the server's own sizes and limits in run.py tune --from FILE",
}


def found_text(found: Found) -> str:
    """Return the answer of `run.py inspect`."""
    rows = [["what it is", f"{found.path.name}: {found.title}"]]
    rows += [["read", line] for line in found.read]
    rows += [["", line] for line in _contents(found)]
    rows += [["left out", line] for line in found.left_out]
    rows += [["lacks", line] for line in found.lacks]
    rows += [["may be used for", f"{use}: {_command(use, found)}"] for use in found.uses]
    if not found.uses:
        rows.append(["may be used for", "nothing"])
    rows.append(["made by", found.command])
    seen: set[str] = set()
    for row in rows:
        label = row[0]
        row[0] = "" if label in seen else label
        seen.add(label)
    return "\n".join(f"{label:<16} {text}".rstrip() for label, text in rows) + "\n"


def _command(use: Use, found: Found) -> str:
    if use == Use.LATENCIES and Use.ARRIVALS not in found.uses:
        return "not with run.py validate, which needs arrivals, too"
    return COMMANDS[use]


def found_record(found: Found) -> dict[str, object]:
    """Return the same for programs."""
    record: dict[str, object] = {
        "path": str(found.path),
        "format": found.format,
        "version": found.version,
        "uses": [str(use) for use in found.uses],
        "read": list(found.read),
        "left_out": list(found.left_out),
        "lacks": list(found.lacks),
        "command": found.command,
    }
    if found.requests is not None:
        record["requests"] = len(found.requests)
    if found.log is not None:
        record["decode_steps"] = {str(size): count for size, count in found.log.decode_steps.items()}
        record["mixed_steps"] = {str(size): count for size, count in found.log.mixed_steps.items()}
        record["tokens_per_request"] = found.log.tokens_per_request
        record["accepted_length"] = found.log.accepted_length
    return record


def _contents(found: Found) -> list[str]:
    """Return the main figures of what was read."""
    lines = []
    rows = found.requests
    if rows is not None and len(rows):
        prompt, output = sum(rows.prompt_tokens) / len(rows), sum(rows.output_tokens) / len(rows)
        lines.append(
            f"{count_text(len(rows), 'request')}, prompt tokens mean {number_text(prompt)}, "
            f"output tokens mean {number_text(output)}"
        )
    log = found.log
    if log is not None and log.has_steps:
        most = sorted(log.decode_steps.items(), key=lambda item: (-item[1], item[0]))[:5]
        shown = ", ".join(f"{batch} ({count:,})" for batch, count in most)
        lines.append(
            f"{count_text(sum(log.decode_steps.values()), 'decode step')} of {len(log.decode_steps)} batch "
            f"sizes, {count_text(sum(log.mixed_steps.values()), 'step')} with prompts"
            + (f"; most often {shown}" if shown else "")
        )
    return lines
