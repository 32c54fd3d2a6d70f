"""Parameters and floating-point operations of a world model, section by section."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from loopwm.model.block import Layers


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one environment step of one row; a multiply-add counts as two.

    Only matrix products are counted, as is usual. `block` is one loop. `summary` is in no sum: it replaces decoding.
    """

    encoder: int
    action: int
    prelude: int
    held_input: int
    block: int
    loops: int
    coda: int
    heads: int
    summary: int = 0

    @property
    def step(self) -> int:
        """The dynamics alone, as in imagination: no encoder, no heads."""
        return self.action + self.prelude + self.held_input + self.loops * self.block + self.coda

    @property
    def total(self) -> int:
        """Encode, step and decode."""
        return self.encoder + self.step + self.heads


def linear_flops(module: nn.Module, rows: int) -> int:
    """2 x weights x rows over every linear map inside `module`."""
    return sum(2 * part.weight.numel() * rows for part in module.modules() if isinstance(part, nn.Linear))


def layers_flops(layers: Layers, tokens: int, width: int) -> int:
    """Linear maps plus the two N x N products of each attention."""
    return linear_flops(layers, tokens) + len(layers.blocks) * 4 * tokens * tokens * width


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
