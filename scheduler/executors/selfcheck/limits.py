"""The rules of recording a step, each broken once: what really happens, and what in fact works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from scheduler.executors.real.replay import Captured, CaptureError
from scheduler.executors.real.torch_session import replay_backend
from scheduler.executors.selfcheck.report import Report
from scheduler.executors.selfcheck.static_mlp import StaticMlp

TOO_MANY_BYTES = 2**52
Step = Callable[[Tensor, Tensor], Any]


def show_limits(report: Report, device: str, static: StaticMlp, captured: Captured, batch: int) -> None:
    """Show every constraint live; failing captures come last, and an earlier graph must survive them."""
    report.head("What a recorded step can do, against folklore")
    _dropout(report, device, static)
    _allocation(report, device, static)
    _pieces(report, device, static, batch)
    report.head("What it cannot do, shown live")
    _changed_shape(report, static, batch)
    _rebound_input(report, static, captured, batch)
    _host_branch(report, device, static)
    for name, step, kinds in (
        ("host sync", _with_host_sync, ("dynamic", "illegal", "other")),
        ("data-dependent shape", _with_dynamic_shape, ("dynamic", "illegal", "other")),
        ("illegal operation", _with_device_wait, ("dynamic", "illegal", "other")),
        ("out of memory", _too_large, ("oom",)),
    ):
        if name == "illegal operation" and device != "cuda":
            report.note(
                name,
                "waiting for the device inside a capture is illegal on a GPU; a CPU trace has no such rule",
            )
            continue
        _refused(report, device, static, name, step, kinds)
    _survives(report, static, captured, batch)


def _changed_shape(report: Report, static: StaticMlp, batch: int) -> None:
    other = torch.zeros(batch + 1, static.inputs.shape[1], device=static.inputs.device)
    try:
        static.inputs[:batch].copy_(other)
        report.check("changed shape", False, "the static input took a larger batch")
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        report.check("changed shape", True, f"the static input refuses {batch + 1} rows: {first}")


def _rebound_input(report: Report, static: StaticMlp, captured: Captured, batch: int) -> None:
    """Show that a new tensor under the old name is not seen: the recording is bound to the old memory."""
    static.inputs.normal_()
    captured.replay()
    before = static.outputs[:batch].clone()
    kept = static.inputs
    static.inputs = torch.ones_like(kept)
    captured.replay()
    unseen = bool(torch.equal(before, static.outputs[:batch]))
    static.inputs = kept
    static.inputs.fill_(1.0)
    captured.replay()
    seen = not torch.equal(before, static.outputs[:batch])
    report.check("rebound input is not seen", unseen, "the replay went on reading the old tensor")
    report.check("copied input is seen", seen, "copying into the static tensor changes the output")


def _host_branch(report: Report, device: str, static: StaticMlp) -> None:
    """Show that a branch on a Python value is decided once, silently."""
    switch = {"double": True}

    def step(inputs: Tensor, outputs: Tensor) -> Tensor:
        outputs[:1].copy_(inputs[:1, : outputs.shape[1]] * (2.0 if switch["double"] else 3.0))
        return outputs

    backend = replay_backend(device)
    captured = backend.capture("branch", step, static.bound)
    switch["double"] = False
    static.inputs.fill_(1.0)
    captured.replay()
    value = float(static.outputs[0, 0])
    backend.reset()
    report.check(
        "host branch is baked in",
        value == 2.0,
        f"the branch changed to 3×, the replay still gives {value:g}×",
    )


def _with_host_sync(inputs: Tensor, outputs: Tensor) -> Tensor:
    if inputs.sum().item() > 0:
        outputs.add_(1.0)
    return outputs


def _with_dynamic_shape(inputs: Tensor, outputs: Tensor) -> Tensor:
    positive = inputs[inputs > 0]
    outputs[0, 0] = positive.sum()
    return outputs


def _with_device_wait(inputs: Tensor, outputs: Tensor) -> Tensor:
    outputs.copy_(outputs * 2.0)
    torch.cuda.synchronize()
    return outputs


def _too_large(inputs: Tensor, outputs: Tensor) -> Tensor:
    huge = torch.empty(TOO_MANY_BYTES, dtype=torch.uint8, device=inputs.device)
    outputs[0, 0] = huge[0]
    return outputs


def _refused(
    report: Report, device: str, static: StaticMlp, name: str, step: Step, kinds: tuple[str, ...]
) -> None:
    backend = replay_backend(device)
    try:
        backend.capture(name, step, static.bound)
        report.check(name, False, "the capture succeeded")
    except CaptureError as error:
        text = str(error)
        report.check(name, error.kind in kinds, f"refused, {text[:160]}")


def _survives(report: Report, static: StaticMlp, captured: Captured, batch: int) -> None:
    """After the failures: an earlier graph still replays, and an eager step still works."""
    torch.arange(static.inputs.numel(), out=static.inputs.view(-1)).sin_()
    static.outputs.fill_(float("nan"))
    captured.replay()
    with torch.no_grad():
        same = bool(torch.equal(static.outputs[:batch], static.mlp(static.inputs[:batch])))
    report.check("earlier graphs survive failed captures", same, "replay and eager agree bit for bit")
    if static.inputs.is_cuda:
        default = torch.cuda.current_stream() == torch.cuda.default_stream()
        report.check("the current stream is the one before the failures", bool(default), str(default))
    try:
        static.inputs.normal_()
        report.check("random numbers still work", True, "the default generator draws")
    except RuntimeError as error:
        report.check("random numbers still work", False, str(error).splitlines()[0])


def _dropout(report: Report, device: str, static: StaticMlp) -> None:
    """Random numbers work: with the default generator each replay draws anew."""

    def step(inputs: Tensor, outputs: Tensor) -> Tensor:
        outputs.copy_(F.dropout(inputs[:, : outputs.shape[1]], 0.5, training=True))
        return outputs

    static.inputs.fill_(1.0)
    backend = replay_backend(device)
    captured = backend.capture("dropout", step, static.bound)
    captured.replay()
    first = static.outputs.clone()
    captured.replay()
    differ = not torch.equal(first, static.outputs)
    backend.reset()
    report.check("dropout with the default generator", differ, "two replays drop different entries")


def _allocation(report: Report, device: str, static: StaticMlp) -> None:
    """Allocating inside works: the memory comes from the recording's own pool and stays there."""

    def step(inputs: Tensor, outputs: Tensor) -> Tensor:
        scratch = torch.empty(1024, 1024, device=inputs.device).fill_(2.0)
        outputs[0, 0] = scratch.sum() / scratch.numel() * inputs[0, 0]
        return outputs

    backend = replay_backend(device)
    captured = backend.capture("allocation", step, static.bound)
    static.inputs.fill_(3.0)
    captured.replay()
    value = float(static.outputs[0, 0])
    held = captured.memory_bytes
    backend.reset()
    report.check(
        "allocation inside the step", value == 6.0, f"gives {value:g}, the recording holds {held} bytes"
    )


def _pieces(report: Report, device: str, static: StaticMlp, batch: int) -> None:
    """Capture a step in pieces around an eager part, as engines do with prefill attention."""
    mlp = static.mlp
    middle = torch.zeros(batch, static.mlp.sizes[1], device=static.inputs.device)

    def first(inputs: Tensor, middle: Tensor) -> Tensor:
        middle.copy_(F.linear(inputs[:batch], mlp.weights[0], mlp.biases[0]))
        return middle

    def last(middle: Tensor, outputs: Tensor) -> Tensor:
        x = F.relu(F.linear(middle, mlp.weights[1], mlp.biases[1]))
        outputs[:batch].copy_(F.linear(x, mlp.weights[2], mlp.biases[2]))
        return outputs

    backend = replay_backend(device)
    one = backend.capture("first piece", first, (static.inputs, middle))
    two = backend.capture("last piece", last, (middle, static.outputs))
    static.inputs.normal_()
    one.replay()
    middle.relu_()  # the eager part, free to have any shape
    two.replay()
    with torch.no_grad():
        same = bool(torch.equal(static.outputs[:batch], mlp(static.inputs[:batch])))
    backend.reset()
    report.check("capture in pieces", same, "two graphs around an eager operation give the whole step's bits")
