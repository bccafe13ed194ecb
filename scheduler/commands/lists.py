"""`run.py profile list` and `run.py preset list`: every name that a workload file may use, in a line each."""

from __future__ import annotations

from scheduler.catalog.engine_presets import engine_preset, engine_preset_names
from scheduler.catalog.pool_presets import pool_preset, pool_preset_names
from scheduler.catalog.profile.file import load_profile, shipped_profiles
from scheduler.catalog.slo_presets import SLO_PRESETS
from scheduler.report.profile_list import profile_list_text
from scheduler.report.wording import aligned, count_text, sizes_text

SHOWN_SEQS, SHOWN_TOKENS = 256, 2048
IMPORT = "your own: run.py profile import --help, run.py calibrate --help"


def run_profile_list() -> int:
    """Print the shipped profiles by GPU and model: what a step takes, what is known of eager; return 0."""
    print(profile_list_text([load_profile(name) for name in shipped_profiles()]))
    print(IMPORT)
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
