"""Is real execution possible here? One clear line where it is not."""

from __future__ import annotations

from importlib import util

from scheduler.errors import InputError

DEVICES = ("cpu", "cuda")


def torch_installed() -> bool:
    """Say whether torch can be imported, without importing it."""
    return util.find_spec("torch") is not None


def cuda_available() -> bool:
    """Say whether torch is installed and sees a CUDA GPU."""
    if not torch_installed():
        return False
    import torch

    return bool(torch.cuda.is_available())


def require_device(device: str) -> None:
    """Raise InputError (what to install, or what to use instead) unless `device` can execute steps."""
    if device not in DEVICES:
        raise InputError(f"--device {device}: expected one of {', '.join(DEVICES)}")
    if not torch_installed():
        raise InputError(
            "real execution needs torch, which is not installed: pip install -e '.[torch]' "
            "(or leave out --executor torch: the cost model runs on any profile without it)"
        )
    if device == "cuda" and not cuda_available():
        raise InputError(
            "--device cuda: torch sees no CUDA GPU here; use --device cpu, or leave out --executor torch "
            "and simulate with a measured GPU profile (run.py profile show lists them)"
        )
