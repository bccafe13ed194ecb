"""How each shipped profile is built from its data: `python -m scheduler.catalog.importers.shipped DATA OUT`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from scheduler.catalog.importers.torch_decoder import import_torch_decoder
from scheduler.catalog.profile import Identity, Memory, ModelShape, Profile
from scheduler.catalog.profile_file import write_profile

GIB = 1 << 30
LLAMA_8B = ModelShape(
    layers=32, kv_heads=8, head_dim=128, weight_bytes=16_060_522_496, kv_bytes_per_token=131_072
)
# LLMServingSim's RTX 4090 run: 0.9 x 25,250,627,584 bytes less weights less 2,588 blocks of 16 tokens.
VLLM_ACTIVATION_BYTES = 1_237_612_953


def h100_torch(data: Path) -> Profile:
    """Build the default profile: this project's plain PyTorch decoder on an H100."""
    return import_torch_decoder(
        data / "h100_torch_decode.csv",
        data / "h100_torch_facts.jsonl",
        "llama-8b",
        Identity(
            name="h100-llama-3.1-8b-bf16",
            gpu="NVIDIA H100 80GB HBM3 SXM",
            model="Llama-3.1-8B shape, random weights",
            engine="plain PyTorch decoder of this project, SDPA flash, torch.cuda.CUDAGraph",
            engine_version="torch 2.11.0+cu130",
            dtype="bf16",
            source="measured for this project on one virtual machine with 16 cores, driver 580.159.04",
            licence="Apache-2.0",
            date="2026-11-23",
        ),
        LLAMA_8B,
        Memory(gpu_bytes=80 * GIB, utilization=0.9, activation_bytes=VLLM_ACTIVATION_BYTES),
    )


BUILDERS: dict[str, Callable[[Path], Profile]] = {"h100-llama-3.1-8b-bf16": h100_torch}


def build(data: Path, out: Path) -> None:
    """Build every shipped profile from the measurement files in `data` into the folder `out`."""
    for name, builder in BUILDERS.items():
        write_profile(out / f"{name}.json", builder(data))


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
