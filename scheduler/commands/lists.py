"""`run.py profile list` and `run.py preset list`: every name that a workload file may use, in a line each."""

from __future__ import annotations

from collections import defaultdict

from scheduler.catalog.engine_presets import engine_preset, engine_preset_names
from scheduler.catalog.pool_presets import pool_preset, pool_preset_names
from scheduler.catalog.profile.file import load_profile, shipped_profiles
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.catalog.slo_presets import SLO_PRESETS
from scheduler.report.wording import aligned, count_text, sizes_text

SHOWN_SEQS, SHOWN_TOKENS = 256, 2048
IMPORT = "your own: run.py profile import --help, run.py calibrate --help"


def run_profile_list() -> int:
    """Print the shipped profiles with their engines and what is known of eager; return 0."""
    profiles = [load_profile(name) for name in shipped_profiles()]
    rows = [["name", "GPU", "model", "step times of", "eager"]]
    rows += [
        [
            profile.name,
            profile.identity.gpu,
            profile.identity.model,
            f"{profile.identity.engine} {profile.identity.engine_version}",
            _eager(profile),
        ]
        for profile in profiles
    ]
    lines = aligned(rows, left=5)
    several = _of_one_gpu(profiles)
    if several:
        lines += [
            "",
            "Profiles of one GPU and model differ as their engines and hosts do:",
        ]
        lines += [f"  {names}" for names in several]
        lines.append("  take the one of your engine; its range of eager is narrowed by --eager-ms X.")
    print("\n".join(line.rstrip() for line in [*lines, "", IMPORT]))
    return 0


def run_preset_list() -> int:
    """Print the presets of engines, capture lists and SLOs; return 0."""
    engines = [["engine.preset", "release", "max_num_seqs", "token budget", "capture list"]]
    for name in engine_preset_names():
        preset = engine_preset(name)
        engines.append(
            [
                name,
                preset.release,
                str(preset.max_num_seqs),
                f"{preset.max_num_batched_tokens:,}",
                preset.pool,
            ]
        )
    pools = [
        ["pool.preset, --pool", "release", f"sizes at max_num_seqs {SHOWN_SEQS}, {SHOWN_TOKENS:,} tokens"]
    ]
    for name in pool_preset_names():
        made = pool_preset(name, SHOWN_SEQS, SHOWN_TOKENS)
        sizes = f"{count_text(len(made.sizes), 'size')}: {sizes_text(made.sizes)}"
        pools.append([name, made.release, sizes if made.padding else f"{sizes}, no padding"])
    slos = [["slo.preset", "TTFT ms", "TPOT ms"]]
    slos += [[name, f"{slo.ttft_ms:g}", f"{slo.tpot_ms:g}"] for name, slo in SLO_PRESETS.items()]
    tables = [aligned(engines, left=2), aligned(pools, left=3), aligned(slos, left=1)]
    print("\n\n".join("\n".join(line.rstrip() for line in table) for table in tables))
    return 0


def _eager(profile: MeasuredProfile) -> str:
    eager = profile.curve("eager")
    if eager is None:
        return "none: as without a graph"
    text = "assumed" if eager.origin == "assumed" else eager.origin
    return f"{text}, fast to slow host ({profile.range_origin})" if profile.has_range else f"{text}, one host"


def _of_one_gpu(profiles: list[MeasuredProfile]) -> list[str]:
    """Return the names of profiles that are of the same kind of GPU and of the same model."""
    by_gpu: dict[tuple[str, str], list[str]] = defaultdict(list)
    for profile in profiles:
        words = [word for word in profile.identity.gpu.upper().split() if any(c.isdigit() for c in word)]
        model = profile.identity.model.split()[0].lower()
        by_gpu[words[0] if words else profile.identity.gpu, model].append(profile.name)
    return [", ".join(names) for names in by_gpu.values() if len(names) > 1]
