"""Which device, which precision, and whether the block gets compiled: decided at run time, by measuring."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from loopwm.errors import UserError
from loopwm.interrupts import sparing_children

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """`auto` is the accelerator if there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"Device '{name}' is not available here; use auto or cpu.") from error
    return device


def compiler_works(device: torch.device) -> bool:
    """Whether torch can compile for `device` here, found out by compiling something small.

    A compiler on the path is not enough: Python's headers, or torch's own, can be missing.
    """
    try:
        with sparing_children():
            torch.compile(lambda x: x.sin() + 1)(torch.zeros(4, device=device))
    except Exception:
        return False
    return True


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def native_precision(device: torch.device) -> Precision:
    """bfloat16 where it need not be emulated. Whatever else the machine does, the same hardware gives the same."""
    return "bfloat16" if has_bfloat16(device) else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """bfloat16 matrix products, or nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def peak_memory() -> float:
    """Main memory that this process has needed at most since it began, in GiB."""
    import resource

    # Bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


class Heap:
    """What was freed goes back to the system now and then, where the C library can be asked to (glibc).

    Windows of texts differ in length, so tensors fit ever worse into the holes that earlier ones left, and the process
    grows by the hour though it uses no more.
    """

    def __init__(self, every: float = 30.0) -> None:
        """Every so many seconds at most: it takes tenths of a second, and so does fetching the memory anew."""
        self.every = every
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._trimmed = time.monotonic()

    def trim(self) -> bool:
        """If it is time to; whether anything was given back."""
        if self._trim is None or time.monotonic() - self._trimmed < self.every:
            return False
        given = bool(self._trim(0))
        self._trimmed = time.monotonic()
        return given


@dataclass(frozen=True)
class PrecisionChoice:
    """The faster precision and the evidence: median seconds per update of each one measured."""

    precision: Precision
    seconds: dict[str, float]


def faster_precision(device: torch.device, work: Callable[[Precision], None], repeats: int = 5) -> PrecisionChoice:
    """Measure `work` in both precisions, interleaved, and keep the faster; bfloat16 must win by 5% to be worth it."""
    if not has_bfloat16(device):
        return PrecisionChoice("float32", {})
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for repeat in range(repeats + 2):
        for precision, taken in seconds.items():
            start = time.perf_counter()
            work(precision)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            # The leading rounds compile and warm up.
            if repeat >= 2:
                taken.append(time.perf_counter() - start)
    median = {precision: sorted(taken)[len(taken) // 2] for precision, taken in seconds.items()}
    faster: Precision = "bfloat16" if median["bfloat16"] < 0.95 * median["float32"] else "float32"
    return PrecisionChoice(faster, {str(name): value for name, value in median.items()})
