"""The ordinary alternative to looping: a stack of layers, each with its own parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopwm.errors import UserError
from loopwm.model.config import ModelConfig
from loopwm.model.core import Prelude, checked_loops
from loopwm.model.exits import Exit
from loopwm.model.trace import StepTrace, Trace


class StackCore(nn.Module):
    """h_k = Norm(P([h_{k-1}; e_k; u_k])): the prelude of the looped core, as deep as the whole core."""

    loopable = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.depth = config.stack_depth
        self.prelude = Prelude(config, self.depth, normalise=True)

    def forward(
        self,
        h: Tensor,
        e: Tensor | None,
        u: Tensor,
        num_loops: int | Tensor,
        trace: Trace | None = None,
        leave: Exit | None = None,
    ) -> Tensor:
        """One environment step; shapes as in `LoopedCore.forward`. There is no loop, so `leave` is always None.

        Raises:
            UserError: more than one loop was asked for.
        """
        loops = checked_loops(num_loops, len(h))
        if len(loops) and int(loops.max()) > 1:
            raise UserError(
                f"A stack has no loop to repeat, but num_loops = {int(loops.max())} was asked for; leave it out."
            )
        carried = self.prelude(h, e, u)
        if trace is not None:
            norm = carried.detach().pow(2).mean((-1, -2)).sqrt()
            trace.steps.append(StepTrace(loops, carried.new_full((1, len(h)), torch.nan), norm))
        return carried
