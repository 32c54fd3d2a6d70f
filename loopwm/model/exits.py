"""What tells a row that it may leave the loop: signals, one number per row and loop, small when all is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.config import ExitConfig
from loopwm.model.contraction import Contraction
from loopwm.model.gate import Gate, Gated


class Signal(Protocol):
    """Follows the rows of one environment step from loop to loop."""

    def look(self, h: Tensor) -> Tensor:
        """h^(t) (B, N, D) after the next loop -> (B,), infinite while nothing can be said yet."""
        ...

    def keep(self, staying: Tensor) -> None:
        """Forget all rows but those at the indices `staying`."""
        ...


class Residual:
    """|h^(t) - h^(t-1)| / |h^(t)|."""

    def __init__(self, start: Tensor) -> None:
        self.before = start

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        change = relative(h - self.before, h)
        self.before = h
        return change

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`."""
        self.before = self.before[staying]


class Acceleration:
    """|h^(t) - 2 h^(t-1) + h^(t-2)| / |h^(t)|, the larger of the last two: below a threshold when both are.

    Source: arXiv 2606.18208, section on exits; two in a row, because a single small one is often a turning point.
    """

    def __init__(self, start: Tensor) -> None:
        self.before, self.step = start, torch.full_like(start, torch.nan)
        self.last = start.new_full((len(start),), torch.inf)

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        step = h - self.before
        # Before there are two steps the difference is NaN, which must read as "not yet".
        bend = relative(step - self.step, h).nan_to_num(nan=torch.inf)
        signal = torch.maximum(bend, self.last)
        self.before, self.step, self.last = h, step, bend
        return signal

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`."""
        self.before, self.step, self.last = self.before[staying], self.step[staying], self.last[staying]


class OutputDelta:
    """Root mean square change of the decoded observation, in standard deviations of the training data.

    Latents settle at one pace; what they say about the world does not. The price is a decoding after every loop.
    """

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        self.read = read
        self.before: Tensor | None = None

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        before, output = self.before, self.read(h).flatten(1)
        self.before = output
        if before is None:
            return output.new_full((len(output),), torch.inf)
        return (output - before).square().mean(1).sqrt()

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`."""
        if self.before is not None:
            self.before = self.before[staying]


class Certified:
    """rho / (1 - rho) |h^(t) - h^(t-1)|_*, at least the distance |h^(t) - h*|_* to the fixed point of the row's loop.

    Source: Banach's fixed-point theorem with the rate of docs/certificate.md.
    """

    def __init__(self, start: Tensor, contraction: Contraction) -> None:
        self.before, self.contraction = start, contraction
        self.factor = contraction.rate / (1 - contraction.rate)

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        bound = self.factor * self.contraction.distance(h - self.before)
        self.before = h
        return bound

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`."""
        self.before = self.before[staying]


@dataclass(frozen=True)
class Exit:
    """A rule as the core applies it: `watch(h^(0), e)` begins to follow the rows of one environment step."""

    watch: Callable[[Tensor, Tensor], Signal]
    threshold: float
    min_loops: int


def exit_for(
    config: ExitConfig,
    read: Callable[[Tensor], Tensor],
    contraction: Contraction | None = None,
    gate: Gate | None = None,
) -> Exit:
    """The rule of a configuration.

    Args:
        read: decodes a loop state (B, N, D) to (B, ...).
        contraction: constants of a certified core; None for any other.
        gate: the model's learned gate, if it has one.

    Raises:
        UserError: the rule is `certified` and the loop is not known to contract, or `gate` and there is none.
    """
    if config.rule == "certified":
        constants = checked_contraction(contraction)
        return Exit(lambda start, _: Certified(start, constants), config.threshold, config.min_loops)
    if config.rule == "gate":
        trained = checked_gate(gate)
        return Exit(lambda start, e: Gated(start, e, trained, read), config.threshold, config.min_loops)
    watch: dict[str, Callable[[Tensor, Tensor], Signal]] = {
        "residual": lambda start, _: Residual(start),
        "acceleration": lambda start, _: Acceleration(start),
        "output_delta": lambda _, __: OutputDelta(read),
    }
    return Exit(watch[config.rule], config.threshold, config.min_loops)


def checked_gate(gate: Gate | None) -> Gate:
    """The gate, if there is one."""
    if gate is None:
        raise UserError(
            "exit.rule 'gate' needs a learned gate, and this model has none; train one with: loopwm train-gate RUN"
        )
    return gate


def checked_contraction(contraction: Contraction | None) -> Contraction:
    """The constants, if they promise anything."""
    if contraction is None:
        raise UserError(
            "exit.rule 'certified' needs a certified core; train one with model.loop.certified, or choose another rule."
        )
    if contraction.rate >= 1:
        raise UserError(
            f"exit.rule 'certified' promises nothing for these weights: their Lipschitz constant is "
            f"{contraction.lipschitz:.4g}, not below 1; call model.project() after changing weights."
        )
    return contraction


def relative(change: Tensor, of: Tensor) -> Tensor:
    """|change| / |of| over all tokens of a row: (B,)."""
    return change.flatten(1).norm(dim=1) / of.flatten(1).norm(dim=1).clamp(min=1e-12)
