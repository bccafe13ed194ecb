"""How each shipped profile is built: `python -m evidence.profiles.shipped DATA OUT`.

DATA is the folder with the measurement files; the sources and licences stand in each profile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evidence.profiles.layer_prefill import (
    gemm_tokens_curve,
    lm_head_curve,
    read_gemms,
    read_vidur,
    vidur_tokens_curve,
)
from evidence.profiles.torch_decoder import import_torch_decoder
from scheduler.catalog.importers.aiconfigurator import import_aiconfigurator
from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.grid import Cells, decode_table, leave_one_size_out
from scheduler.catalog.importers.llmservingsim import (
    EAGER_ISSUE_MS,
    ISSUE_NOTE,
    LLAMA_8B,
    PIECEWISE_ISSUE_MS,
    PIECEWISE_NOTE,
    import_llmservingsim,
)
from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Host, Prefill
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.file import write_profile
from scheduler.catalog.profile.measured import MeasuredProfile, Memory
from scheduler.catalog.profile.profile import Identity, PoolCosts, Provenance
from scheduler.catalog.profile.tables import Curve

GIB = 1 << 30
UTILIZATION = 0.9
VLLM_SIZES = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
VLLM_CAPTURES = (*(size for size in VLLM_SIZES if size <= 256), *VLLM_SIZES)  # FULL, then PIECEWISE
FLOP_PER_PAIR = 4 * 32 * 128 * 32  # QK and PV, 2 flop each, of 32 heads x 128 in 32 layers
A100_BF16_TFLOPS = 312.0
FLASH_SHARE = 0.73
HBM_GB_PER_S = {"A100": 2039.0, "H100": 3350.0, "H200": 4800.0}

MODEL_NOTE = "the published shape: 8,030,261,248 weights of 2 bytes; 2 x 32 layers x 8 heads x 128 x 2 bytes"
POOL_NOTE = (
    "vLLM 0.26.0's own log on an H100, Llama-3.1-8B: 0.58 GiB and 6 s for 86 graphs (35 FULL, 51 PIECEWISE, "
    "to 512), 0.28 GiB for 2 graphs of 256; bytes per row as PyTorch's on an H100. Other reports span 6 MiB "
    "(vllm#11349) to 28 MiB (vllm#22897) and 0.05 to 0.4 s a graph"
)
ACTIVATION_NOTE = (
    "0.9 x 25,250,627,584 bytes less weights, 2,588 KV blocks and the 86 graphs of this profile: "
    "what vLLM 0.19 kept free on an RTX 4090 (LLMServingSim's run; its configuration, not its times)"
)


def build(data: Path, out: Path) -> None:
    """Build every shipped profile from the measurement files in `data` into the folder `out`."""
    for name, builder in BUILDERS.items():
        write_profile(out / f"{name}.json", builder(data))


def h100_torch(data: Path) -> CurveProfile:
    """Build the default profile: this project's plain PyTorch decoder on an H100."""
    identity = Identity(
        name="h100-llama-3.1-8b-bf16",
        gpu="NVIDIA H100 80GB HBM3 SXM",
        model="Llama-3.1-8B shape, random weights",
        engine="plain PyTorch decoder of this project, SDPA flash, torch.cuda.CUDAGraph",
        engine_version="torch 2.11.0+cu130",
        dtype="bf16",
        source="measured for this project on one virtual machine with 16 cores, driver 580.159.04",
        licence="Apache-2.0",
        date="2026-11-23",
    )
    decode, facts = data / "h100_torch_decode.csv", data / "h100_torch_facts.jsonl"
    return import_torch_decoder(decode, facts, "llama-8b", identity, LLAMA_8B, _memory(80 * GIB))


def rtx4090(data: Path) -> CurveProfile:
    """Build the RTX 4090 profile from LLMServingSim's layer tables; no time comes from its vLLM run."""
    stem = "llmservingsim_rtx4090_llama31_8b_"
    profile = import_llmservingsim(
        data / f"{stem}dense.csv", data / f"{stem}per_sequence.csv", data / f"{stem}attention.csv.gz"
    )
    identity = Identity(
        name="rtx4090-llama-3.1-8b-bf16",
        gpu="NVIDIA GeForce RTX 4090",
        model="Llama-3.1-8B",
        engine="vLLM",
        engine_version="0.19.0",
        dtype="bf16",
        source="LLMServingSim 5daddb2, profiler/perf/RTX4090: dense, per-sequence and attention layer tables",
        licence="MIT (LLMServingSim)",
        date="2026",
    )
    return _completed(
        profile,
        identity,
        _memory(25_250_627_584),
        {"memory.gpu_bytes": _derived("as the run's configuration has it")},
    )


def a100(data: Path) -> CurveProfile:
    """Build the A100 profile: Vidur's layers and aiconfigurator's decode attention, added up."""
    cells = _kernel_sums(data / "decode_step_ms.csv", "A100-SXM4-80GB", "Llama-3-8B-fp16")
    vidur = read_vidur(data / "vidur_a100_llama3_8b_mlp.csv.gz")
    gemms = read_gemms(data / "aiconfigurator_gemm_bf16.csv", "NVIDIA A100-SXM4-80GB")
    pair_ms = FLOP_PER_PAIR / (FLASH_SHARE * A100_BF16_TFLOPS * 1e9)
    identity = Identity(
        name="a100-llama-3.1-8b-bf16",
        gpu="NVIDIA A100-SXM4-80GB",
        model="Llama-3.1-8B (layers of Llama-3-8B, the same shape)",
        engine="vLLM kernels",
        engine_version="0.14.0 (attention)",
        dtype="bf16 (linear layers measured in fp16)",
        source="Vidur 7d47513 layer profile; aiconfigurator 095f58a decode attention and lm_head",
        licence="MIT (Vidur), Apache-2.0 (aiconfigurator)",
        date="2026",
    )
    profile = _from_cells(
        cells, identity, "sum of kernels: Vidur's layers x 32 and aiconfigurator's attention"
    )
    prefill = _prefill(vidur_tokens_curve(vidur), lm_head_curve(gemms), pair_ms)
    notes = {
        "memory.gpu_bytes": _derived("80 GiB, nominal"),
        "prefill.tokens": _derived("Vidur's measured layers x 32"),
        "prefill.sequences": _derived("lm_head scaled from aiconfigurator's GEMM with n 65,536"),
        "prefill.pair_ms": _assumed(
            "FlashAttention-2's published best share of an A100's peak, 73% of 312 Tflop/s (arXiv 2307.08691)"
        ),
    }
    return _completed(profile.model_copy(update={"prefill": prefill}), identity, _memory(80 * GIB), notes)


def hopper(data: Path, gpu: str, backend: str) -> CurveProfile:
    """Build an H100 or H200 profile from aiconfigurator's decode table of one engine and its GEMMs."""
    engine, version = {
        "vllm": ("vLLM", "0.19.0"),
        "trtllm": ("TensorRT-LLM", "as in aiconfigurator 095f58a"),
    }[backend]
    device = {"H100": "NVIDIA H100 80GB HBM3", "H200": "NVIDIA H200"}[gpu]
    name = "h200" if gpu == "H200" else f"h100-{backend}"
    system = f"{gpu.lower()}_sxm"
    choose = {"model": "Llama-3.1-8B", "system": system, "backend": backend}
    profile = import_aiconfigurator(data / "aiconfigurator_decode.csv", choose)
    scale = HBM_GB_PER_S["A100"] / HBM_GB_PER_S[gpu]
    vidur = read_vidur(data / "vidur_a100_llama3_8b_mlp.csv.gz")
    gemms = read_gemms(data / "aiconfigurator_gemm_bf16.csv", device)
    measured = h100_torch(data).prefill
    pair_ms = measured.pair_ms if measured is not None else 0.0
    identity = Identity(
        name=f"{name}-llama-3.1-8b-bf16",
        gpu=device,
        model="Llama-3.1-8B",
        engine=engine,
        engine_version=version,
        dtype="bf16",
        source=f"aiconfigurator 095f58a, decode steps of {system} {backend} and vLLM GEMM tables",
        licence="Apache-2.0 (aiconfigurator)",
        date="2026",
    )
    memory = {"H100": 80, "H200": 141}[gpu]
    notes = {
        "memory.gpu_bytes": _derived(f"{memory} GiB, nominal"),
        "prefill.tokens": _derived(
            "aiconfigurator's vLLM GEMMs x 32 (gate_up, down interpolated), measured to 1,024 tokens; "
            f"norms, rotary, activation, adds: Vidur's A100 times x {scale:.3f}, the ratio of bandwidths"
        ),
        "prefill.sequences": _derived("lm_head scaled from the widest GEMM, n 65,536"),
        "prefill.pair_ms": _assumed("as measured on an H100 with PyTorch's flash attention"),
    }
    prefill = _prefill(gemm_tokens_curve(gemms, vidur, scale), lm_head_curve(gemms), pair_ms)
    return _completed(profile.model_copy(update={"prefill": prefill}), identity, _memory(memory * GIB), notes)


def _prefill(tokens: Curve, sequences: Curve, pair_ms: float) -> Prefill:
    return Prefill(
        tokens=tokens,
        sequences=sequences,
        pair_ms=float(f"{pair_ms:.6g}"),
        piecewise_issue_ms=PIECEWISE_ISSUE_MS,
    )


def _from_cells(cells: Cells, identity: Identity, note: str) -> CurveProfile:
    return CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=identity,
        decode=Decode(graph=DecodeMode(gpu=decode_table(cells)), eager=DecodeMode(issue_ms=EAGER_ISSUE_MS)),
        host=Host(overlap=True),
        fit=(leave_one_size_out(cells, "graph decode steps"),),
        provenance={
            "decode.graph.gpu": _derived(note),
            "decode.eager.issue_ms": _assumed(ISSUE_NOTE),
            "host.overlap": _assumed(
                "asynchronous scheduling, vLLM's default since 0.14: host work is hidden"
            ),
        },
    )


def _completed(
    profile: CurveProfile, identity: Identity, memory: Memory, notes: Mapping[str, Provenance]
) -> CurveProfile:
    """Add what all profiles of served engines share: the model's shape, memory and pool costs."""
    provenance = dict(profile.provenance) | {
        "model": _derived(MODEL_NOTE),
        "memory.utilization": _assumed("0.9, vLLM's default gpu_memory_utilization"),
        "memory.activation_bytes": (_derived if "4090" in identity.gpu else _assumed)(ACTIVATION_NOTE),
        "pool": _assumed(POOL_NOTE),
        **notes,
    }
    if profile.prefill is not None and profile.prefill.piecewise_issue_ms is not None:
        provenance["prefill.piecewise_issue_ms"] = _assumed(PIECEWISE_NOTE)
    value: dict[str, Any] = {
        **{name: getattr(profile, name) for name in ("decode", "prefill", "host", "fit")},
        "format": "graphpool-profile",
        "version": 1,
        "identity": identity,
        "model": LLAMA_8B,
        "memory": memory,
        "pool": SERVED_POOL_COSTS,
        "provenance": provenance,
    }
    return CurveProfile.model_validate(value)


def _kernel_sums(path: Path, device: str, model: str) -> dict[tuple[int, float], float]:
    cells = {}
    for index, row in enumerate(
        read_rows(path, ("device", "model", "mode", "batch", "context_tokens", "step_ms"))
    ):
        if (row["device"], row["model"], row["mode"]) == (device, model, "kernel-sum"):
            batch, context = (int(number_at(row, name, path, index)) for name in ("batch", "context_tokens"))
            cells[batch, float(context)] = number_at(row, "step_ms", path, index)
    return cells


def _memory(gpu_bytes: int) -> Memory:
    """Return the memory section; the activations are what the RTX 4090 run's configuration leaves."""
    kv_bytes = 2588 * 16 * 131_072
    left = (
        int(25_250_627_584 * UTILIZATION)
        - 16_060_522_496
        - kv_bytes
        - SERVED_POOL_COSTS.memory_bytes(VLLM_CAPTURES)
    )
    return Memory(gpu_bytes=gpu_bytes, utilization=UTILIZATION, activation_bytes=left)


def _derived(note: str) -> Provenance:
    return Provenance(origin="derived", note=note)


def _assumed(note: str) -> Provenance:
    return Provenance(origin="assumed", note=note)


# Two lists of one server, from its log: 86 graphs to 512, and 2 of 256. The bytes per row are PyTorch's.
_BYTES_PER_ROW, _LARGE, _SMALL = 496_981, 0.58 * GIB, 0.28 * GIB
_EACH = (_LARGE - _SMALL - 256 * _BYTES_PER_ROW) / 84
SERVED_POOL_COSTS = PoolCosts(
    fixed_bytes=round(_SMALL - 256 * _BYTES_PER_ROW - _EACH),
    bytes_per_largest_row=_BYTES_PER_ROW,
    bytes_per_graph=round(_EACH),
    capture_s_per_graph=round(6 / 86, 5),
    warmup_s_per_graph=0.0,
)

POOL_COSTS = PoolCosts(  # what torch_decoder derives from the H100's pools; a test compares them
    fixed_bytes=32_855_381,
    bytes_per_largest_row=496_981,
    bytes_per_graph=125_829,
    capture_s_per_graph=0.02657,
    warmup_s_per_graph=0.09691,
    device_bytes_per_graph=945_774,
)
FIRST_RUNS, RUNS = (Path(__file__).parents[1] / "data" / name for name in ("vllm_h100_first", "vllm_h100"))
VLLM_026 = "h100-vllm-0.26-llama-3.1-8b-bf16"
H100_BYTES = 85_520_809_984  # 81,559 MiB, as the driver says
KV_TOKENS = 450_736  # as the engine's log says, for every capture list
FASTEST_EAGER_MS = 8.23


def vllm_026(_: Path = RUNS) -> EngineProfile:
    """Build the profile of vLLM 0.26 on an H100 from recorded steps; the fitted runs stand in the sources."""
    sources = [Source(FIRST_RUNS / "default.json")]
    sources += [Source(FIRST_RUNS / f"{name}.json", grid_only=True) for name in ("no_graphs", "eager")]
    sources.append(Source(RUNS / "padded8b.json", gpu_only=True))
    eager = import_steps(sources, {})[0].launch("eager").ms
    weights, per_token = LLAMA_8B.weight_bytes or 0, LLAMA_8B.kv_bytes_per_token or 0
    stated: dict[str, object] = {
        "identity.name": VLLM_026,
        "identity.gpu": "NVIDIA H100 80GB HBM3 SXM",
        "identity.model": "Llama-3.1-8B shape, random weights",
        "identity.engine_version": "0.26.0, asynchronous scheduling, one GPU",
        "identity.dtype": "bf16",
        "identity.source": "measured for this project on one virtual machine with 16 slow cores",
        "identity.licence": "Apache-2.0",
        "identity.date": "2026-11-25",
        "model.layers": LLAMA_8B.layers,
        "model.kv_heads": LLAMA_8B.kv_heads,
        "model.head_dim": LLAMA_8B.head_dim,
        "model.weight_bytes": weights,
        "model.kv_bytes_per_token": per_token,
        "memory.gpu_bytes": H100_BYTES,
        "memory.utilization": UTILIZATION,
        "memory.activation_bytes": int(H100_BYTES * UTILIZATION) - weights - KV_TOKENS * per_token,
        "memory.graphs_from_kv": False,
        "host.range.low": round(FASTEST_EAGER_MS / eager, 3),
        "host.range.high": 1.0,
        "pool.fixed_bytes": round(0.10493 * GIB),
        "pool.bytes_per_largest_row": round(0.000678 * GIB),
        "pool.bytes_per_graph": round(0.001506 * GIB),
        "pool.capture_s_per_graph": 0.07,
        "pool.warmup_s_per_graph": 0.0,
    }
    profile, _ = import_steps(sources, stated)
    notes = {
        "model": _derived(MODEL_NOTE),
        "memory": _derived("the engine's log: 450,736 KV tokens with 0, 1 and 51 sizes alike"),
        "pool": _derived("the engine's log: 0.58, 0.28 and 0.18 GiB for 86, 2 and 22 graphs; 6 s for the 86"),
        "host.range": Provenance(
            origin="assumed",
            note="1 is the measured host, which is slow; the low end launches an eager step in 8.23 ms, the "
            "fastest published for an 8B Llama (sgl-project/sglang#1401)",
        ),
    }
    sections = ("model.", "memory.", "pool.", "host.range.")
    stated_keys = {key for key in profile.provenance if key.startswith(sections)}
    kept = {key: entry for key, entry in profile.provenance.items() if key not in stated_keys}
    return profile.model_copy(update={"provenance": dict(sorted({**kept, **notes}.items()))})


BUILDERS: dict[str, Callable[[Path], MeasuredProfile]] = {
    VLLM_026: vllm_026,
    "h100-llama-3.1-8b-bf16": h100_torch,
    "h100-vllm-llama-3.1-8b-bf16": lambda data: hopper(data, "H100", "vllm"),
    "h100-trtllm-llama-3.1-8b-bf16": lambda data: hopper(data, "H100", "trtllm"),
    "h200-llama-3.1-8b-bf16": lambda data: hopper(data, "H200", "vllm"),
    "a100-llama-3.1-8b-bf16": a100,
    "rtx4090-llama-3.1-8b-bf16": rtx4090,
}

if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
