"""A learned exit gate: what one row's loop state says about the worth of going on.

Source: arXiv 2606.18208, Eq. 12, for a gate that reads h^(t); what it reads beside h^(t) is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

GateKind = Literal["gain", "ouro", "ponder", "act", "eq11"]
CONTINUE = 2.0
"""Start of a gate's logit: a probability of 0.88 to go on, whatever it reads."""


SMALLEST = 1e-6
"""Moves below this look the same to a gate."""


@dataclass(frozen=True)
class GateConfig:
    """A gate as it was trained."""

    kind: GateKind = "gain"
    """What its number means: the logarithm of the remaining squared gain, or the logit of going on (see `Gated`)."""
    marks: int = 6
    """Leading loops that the gate tells apart; all later ones share the last's mark."""
    hidden: int = 32
    """Hidden units per token."""


class Gate(nn.Module):
    """One number per row and loop, from h^(t), e and how far the loop has just moved the row and its prediction.

    Tokens are read one by one before they are pooled, by their mean and by their largest: whether a loop is still worth
    its price depends on the worst entity, which a mean over entities hides. What is read of e is computed once per
    environment step. It starts by saying "go on" to every row.
    """

    def __init__(self, config: GateConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.from_input = nn.Linear(width, config.hidden)
        self.from_state = nn.Linear(width, config.hidden, bias=False)
        self.from_pool = nn.Linear(2 * config.hidden + 2, config.hidden)
        self.marks = nn.Parameter(torch.zeros(config.marks, config.hidden))
        self.out = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.0 if config.kind == "gain" else CONTINUE)

    def held(self, e: Tensor) -> Tensor:
        """e (B, N, D) -> the part of the reading that no loop changes, (B, N, hidden)."""
        return self.from_input(functional.rms_norm(e, e.shape[-1:]))

    def forward(self, h: Tensor, moved: Tensor, held: Tensor, loop: Tensor) -> Tensor:
        """The gate's number after a loop.

        Args:
            h: (..., B, N, D), h^(t).
            moved: (..., B, 2) from `moves`.
            held: (B, N, hidden) from `held`.
            loop: (...) index of the loop just made, from 0.

        Returns:
            (..., B).
        """
        # (..., B, N, hidden) -> (..., B, 2 hidden)
        tokens = functional.silu(self.from_state(functional.rms_norm(h, h.shape[-1:])) + held)
        pooled = torch.cat([tokens.mean(-2), tokens.amax(-2), moved.to(tokens)], dim=-1)
        mark = self.marks[loop.clamp(max=len(self.marks) - 1).to(self.marks.device)]
        return self.out(functional.silu(self.from_pool(pooled) + mark[..., None, :]))[..., 0].float()

    def along(self, path: Tensor, outputs: Tensor, e: Tensor) -> Tensor:
        """The gate's numbers after every loop of a path.

        Args:
            path: (T+1, B, N, D), h^(0) .. h^(T). outputs: (T+1, B, outputs), what they decode to. e: (B, N, D).

        Returns:
            (T, B).
        """
        moved = moves(path[:-1], path[1:], outputs[:-1], outputs[1:])
        return self(path[1:], moved, self.held(e), torch.arange(len(path) - 1))

    def loop_flops(self, tokens: int) -> int:
        """Operations of one look at one row."""
        hidden = self.config.hidden
        return 2 * (tokens * self.from_state.weight.numel() + self.from_pool.weight.numel() + hidden)


class Gated:
    """A gate as the signal of an exit rule; small when another loop is not worth its price.

    gain    root of the expected excess of the squared error over that at full depth, in standard deviations
    ouro    probability that the next loop is worth it
    eq11    1 - g^(t): leaves when g^(t) > 1 - threshold (Eq. 12)
    ponder  probability of not having halted yet, the product of going on: leaves when the halted share exceeds
            1 - threshold (arXiv 2107.05407; the quantile rule of Ouro, arXiv 2510.25741)
    act     what is left of the unit of halting probability (arXiv 1603.08983)
    """

    def __init__(self, start: Tensor, e: Tensor, gate: Gate, read: Callable[[Tensor], Tensor]) -> None:
        self.gate, self.read, self.held = gate, read, gate.held(e)
        self.before, self.output = start, read(start).flatten(1)
        self.left = start.new_ones(len(start))
        self.loop = 0

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        output = self.read(h).flatten(1)
        moved = moves(self.before, h, self.output, output)
        number = self.gate(h, moved, self.held, torch.tensor(self.loop))
        self.before, self.output, self.loop = h, output, self.loop + 1
        if self.gate.config.kind == "gain":
            return (number / 2).exp()
        go_on = number.sigmoid()
        if self.gate.config.kind == "ponder":
            self.left = self.left * go_on
        elif self.gate.config.kind == "act":
            self.left = (self.left - (1 - go_on)).clamp(min=0)
        else:
            self.left = go_on
        return self.left

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`."""
        self.before, self.output = self.before[staying], self.output[staying]
        self.held, self.left = self.held[staying], self.left[staying]


def moves(before: Tensor, after: Tensor, output_before: Tensor, output_after: Tensor) -> Tensor:
    """How far a loop moved a row and its prediction, as logarithms: the signals `residual` and `output_delta`.

    Args:
        before, after: (..., B, N, D) loop states. output_before, output_after: (..., B, outputs) what they decode to.

    Returns:
        (..., B, 2).
    """
    state = (after - before).flatten(-2).norm(dim=-1) / after.flatten(-2).norm(dim=-1).clamp(min=SMALLEST)
    output = (output_after - output_before).square().mean(-1).clamp(min=SMALLEST**2).sqrt()
    return torch.stack([state.clamp(min=SMALLEST), output], dim=-1).log()
