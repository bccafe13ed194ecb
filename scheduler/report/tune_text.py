"""The tuner's answer for people: the advice first, then the evidence, then what to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.report.engine_flags import PastedPool, flags_text
from scheduler.report.wording import count_text, number_text, percent_text, sizes_text

MIB = 1 << 20


def tune_text(answer: Mapping[str, Any], pasted: PastedPool) -> str:
    """Return the card of a closed-loop tuning (tune_answer's data)."""
    sections = [
        advice_line(answer),
        *_pools(answer),
        "",
        *_curve(answer),
        "",
        *_drift(answer),
        "",
        f"{count_text(answer['simulations'], 'simulation')}, {len(answer['candidates'])} pools tried; "
        + "; ".join(answer["search"]),
        "",
        "Paste:",
        flags_text(pasted).rstrip("\n"),
    ]
    return "\n".join(sections) + "\n"


def advice_line(answer: Mapping[str, Any]) -> str:
    """Return the first line: the advice, why, and what it gains in KV room and start-up time."""
    verdict = answer["verdict"]
    gains = []
    tokens, seconds = verdict["kv_tokens_gained"], verdict["start_up_s_gained"]
    if tokens is not None:
        gains.append(f"{tokens:+,}".replace("-", "−") + " KV tokens")
    if seconds is not None:
        gains.append(f"{-seconds:+.1f}".replace("-", "−") + " s start-up")
    return f"{verdict['advice']}: {verdict['reason']}" + (f"; {', '.join(gains)}" if gains else "")


def open_loop_text(answer: Mapping[str, Any], pasted: PastedPool) -> str:
    """Return the card of an open-loop answer (open_loop_choice's data)."""
    without, best = answer["no_graphs_mean_step_ms"], answer["mean_step_ms"]
    lines = [
        f"OPEN LOOP: the best {count_text(len(answer['sizes']), 'graph')} "
        f"for {answer['steps']:,} logged steps",
        f"  sizes          {' '.join(map(str, answer['sizes'])) or 'none'}",
        f"  mean step      {number_text(best)} ms; without graphs {number_text(without)} ms",
    ]
    current = answer["current"]
    if current is not None:
        lines.append(
            f"  server's own   {count_text(len(current['sizes']), 'graph')}: "
            f"{number_text(current['mean_step_ms'])} ms"
        )
    lines += [f"  note: {note}" for note in answer["notes"]]
    return "\n".join([*lines, "", "Paste:", flags_text(pasted).rstrip("\n")]) + "\n"


def _pools(answer: Mapping[str, Any]) -> list[str]:
    goal, seen = answer["objective"], answer["confirmation"]
    mode = "decode and mixed steps" if answer["mode"] == "full_and_piecewise" else "decode steps"
    own, best = answer["own"], answer["best"]
    interval = "no interval"
    if seen["low"] is not None:
        interval = f"95 % interval {_signed(seen['low'])} to {_signed(seen['high'])}"
    lines = [
        f"  tuned          {count_text(best['graphs'], 'graph')} for {mode}: "
        f"{' '.join(map(str, answer['sizes'])) or 'none'}",
        f"  own pool       {count_text(own['graphs'], 'graph')} ({own['origin']}): "
        f"{sizes_text(own['sizes'])}",
        f"  {goal['name']:<14} tuned {number_text(seen['best']['value'])} {goal['unit']}, "
        f"own {number_text(seen['other']['value'])}; difference {_signed(seen['difference'])} "
        f"({percent_text(seen['relative'])}; {interval}) on {goal['on']}: {seen['shown']}",
    ]
    if seen["note"]:
        lines.append(f"  note           {seen['note']}")
    if not answer["steady_state"]:
        lines.append(
            "  note           NO STEADY STATE even with these graphs: numbers describe this finite run"
        )
    fewest, powers = answer["fewest"], answer["powers_of_two"]
    if fewest is not None:
        lines.append(
            f"  fewest         {count_text(fewest['graphs'], 'graph')} within 1 % of the own pool: "
            f"{sizes_text(fewest['sizes'])} ({percent_text(fewest['relative'])}{_interval(fewest)})"
        )
    if powers is not None:
        lines.append(
            f"  powers of two  the best {count_text(powers['graphs'], 'graph')} against "
            f"{sizes_text(powers['powers'])}: {percent_text(powers['relative'])}{_interval(powers)}: "
            f"{powers['shown']}"
        )
    return lines


def _interval(compared: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a relative difference, or nothing where there is none."""
    scale = abs(compared["other"]["value"])
    if compared["low"] is None or not scale:
        return ""
    low, high = (percent_text(compared[end] / scale) for end in ("low", "high"))
    return f"; 95 % interval {low} to {high}"


def _curve(answer: Mapping[str, Any]) -> list[str]:
    goal = answer["objective"]
    rows = [("graphs", f"{goal['name']} ({goal['unit']})", "memory MiB", "KV tokens lost", "capture s")]
    for point in answer["curve"]:
        mark = " ← knee" if point["graphs"] == answer["knee"] else ""
        rows.append(_row(str(point["graphs"]), point, mark))
    rows += [_row(preset["name"], preset) for preset in answer["presets"] if preset["value"] is not None]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    ]


def _row(name: str, point: Mapping[str, Any], mark: str = "") -> tuple[str, str, str, str, str]:
    memory, lost, seconds = point["graph_memory_bytes"], point["kv_tokens_lost"], point["capture_s"]
    return (
        f"{name} ({point['graphs']})" if not name.isdigit() else name,
        number_text(point["value"]),
        "–" if memory is None else f"{memory / MIB:,.0f}",
        "–" if lost is None else f"{lost:,}",
        ("–" if seconds is None else f"{seconds:.1f}") + mark,
    )


def _drift(answer: Mapping[str, Any]) -> list[str]:
    rows: Sequence[Mapping[str, Any]] = answer["drift"]
    lines = ["  at other rates (tuned, own, no graphs, and what tuning for that rate would gain):"]
    for row in rows:
        own = "–" if row["own"] is None else number_text(row["own"])
        lost = "–" if row["lost"] is None else f"{100 * row['lost']:.1f} %"
        values = f"{number_text(row['best'])}, {own}, {number_text(row['no_graphs'])}"
        lines.append(f"  {row['rate_factor']:g}×  {values}; {lost}")
    return lines


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + number_text(abs(value))
