"""A profile in plain text: what it is, what a decode step takes, how well it fits, whence each field."""

from __future__ import annotations

from scheduler.analysis.comparison.step_times import StepCurves
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.report.profile_list import others_text
from scheduler.report.wording import aligned, percent_text

SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def profile_text(profile: MeasuredProfile, curves: StepCurves) -> str:
    """Return the profile's page, ending in a newline."""
    parts = [
        *_identity(profile),
        "",
        *_steps(curves),
        "",
        *_costs(profile),
        *_residuals(profile),
        *others_text(profile),
        *_origins(profile),
    ]
    return "\n".join(line.rstrip() for line in parts) + "\n"


def _identity(profile: MeasuredProfile) -> list[str]:
    identity = profile.identity
    return [
        f"{identity.name}: {identity.gpu}, {identity.model}, {identity.dtype}",
        f"engine   {identity.engine} {identity.engine_version}",
        f"source   {identity.source}; {identity.licence}; {identity.date}",
    ]


def _steps(curves: StepCurves) -> list[str]:
    """Tabulate each curve at powers of two; a range where the ends differ."""
    header = ["decode step, ms", *(curve.mode for curve in curves.curves)]
    rows = []
    for size in SHOWN:
        cells = []
        for curve in curves.curves:
            at = [index for index, batch in enumerate(curve.batch) if batch == size]
            if not at:
                cells.append("")
                continue
            low, high = curve.low_ms[at[0]], curve.high_ms[at[0]]
            cells.append(f"{low:.2f}" if high - low < 0.005 else f"{low:.2f}–{high:.2f}")
        if any(cells):
            rows.append([f"batch {size}", *cells])
    origins = [f"{curve.mode} {curve.origin}" for curve in curves.curves]
    note = f"at {curves.kv_tokens_per_row:,.0f} KV tokens per sequence; {', '.join(origins)}"
    return [*aligned([header, *rows]), note]


def _costs(profile: MeasuredProfile) -> list[str]:
    lines = []
    if profile.pool is not None:
        pool = profile.pool
        lines.append(
            f"graph pool  {pool.fixed_bytes / 2**20:.0f} MiB + "
            f"{pool.bytes_per_largest_row / 2**20:.2f} MiB per row of the largest graph + "
            f"{pool.bytes_per_graph / 2**20:.2f} MiB per further graph; "
            f"{pool.capture_s_per_graph + pool.warmup_s_per_graph:.2f} s per graph"
        )
    lines += [f"{what:<12}{text}" for what, text in profile.parts_in_words()]
    if profile.jitter is not None:
        spreads = [
            f"{name} {spread:.1%}"
            for name, spread in (("graph", profile.jitter.graph), ("eager", profile.jitter.eager))
            if spread is not None
        ]
        lines.append(f"jitter      {', '.join(spreads)}")
    return [*lines, ""] if lines else []


def _residuals(profile: MeasuredProfile) -> list[str]:
    if not profile.fit:
        return ["residuals: none recorded", ""]
    header = ["residuals", "points", "median", "90 % within", "worst"]
    rows = [
        [
            fit.of,
            f"{fit.points:,}",
            percent_text(fit.median_error),
            f"{fit.p90_error:.1%}",
            percent_text(fit.worst_error),
        ]
        for fit in profile.fit
    ]
    notes = sorted({f"({fit.note})" for fit in profile.fit if fit.note})
    return [*aligned([header, *rows]), *notes, ""]


def _origins(profile: MeasuredProfile) -> list[str]:
    lines = ["where each field comes from (a name covers the fields below it):"]
    for field, entry in sorted(profile.provenance.items()):
        origin = "ASSUMED" if entry.origin == "assumed" else entry.origin
        lines.append(f"  {field:<28} {origin:<9} {entry.note}")
    return lines
