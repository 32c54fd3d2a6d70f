"""The looped dynamics core, Eq. 4, 5 and 8: prelude, one shared block applied T times, coda."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopwm.errors import UserError
from loopwm.model.block import Layers
from loopwm.model.config import ModelConfig
from loopwm.model.retention import Retention
from loopwm.model.trace import StepTrace, Trace


class Prelude(nn.Module):
    """Eq. 4: e = Norm(P([h_{k-1}; e_k; u_k])).

    The encoders end in a linear map onto D channels, so concatenating and projecting is the same as adding; an absent
    observation is simply not added. Memory across environment steps travels through here.
    """

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        self.from_latent = nn.Linear(config.width, config.width, bias=False)
        self.layers = Layers(depth, config.width, config.heads, config.mlp_ratio)
        self.norm = nn.RMSNorm(config.width)

    def forward(self, h: Tensor, e: Tensor | None, u: Tensor) -> Tensor:
        """h, e (B, N, D), u (B, 1, D) -> e (B, N, D) with unit root mean square."""
        # Under autocast the products are bfloat16; the sum that all layers add to is not.
        x = self.from_latent(h).to(h.dtype) + u
        return self.norm(self.layers(x if e is None else x + e))


class LoopedCore(nn.Module):
    """h_k = L(h_{k-1}, e_k, u_k) with T loops, T chosen per row at run time.

    Initialisation: B is the identity, a = 0, Delta = -log(abar); the block starts as an ordinary transformer layer.
    """

    loopable = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.loop = config.loop
        self.prelude = Prelude(config, config.prelude)
        self.norm_h = nn.RMSNorm(config.width)
        self.block = Layers(config.shared, config.width, config.heads, config.mlp_ratio)
        self.retention = Retention(config.width, config.loop.abar)
        self.B = nn.Linear(config.width, config.width, bias=False)
        nn.init.eye_(self.B.weight)
        self.coda = Layers(config.coda, config.width, config.heads, config.mlp_ratio)
        self.norm_out = nn.RMSNorm(config.width)

    def forward(
        self, h: Tensor, e: Tensor | None, u: Tensor, num_loops: int | Tensor, trace: Trace | None = None
    ) -> Tensor:
        """One environment step.

        Args:
            h: (B, N, D) latent carried from the previous step.
            e: (B, N, D) embedded observation, or None when imagining.
            u: (B, 1, D) embedded action.
            num_loops: T, one for all rows or (B,) one for each; at least 1.
            trace: filled with this step's loops, residuals and norms when given.

        Returns:
            h_k (B, N, D), normalised, so that |h_k| stays bounded over any horizon.
        """
        loops = checked_loops(num_loops, len(h))
        injected = self.prelude(h, e, u)
        start = h if self.loop.warm_start else torch.zeros_like(injected)
        residuals: list[Tensor] | None = None if trace is None else []
        settled = self.refine(start, injected, loops, residuals)
        carried = self.norm_out(self.coda(settled))
        if trace is not None and residuals is not None:
            norm = carried.detach().pow(2).mean((-1, -2)).sqrt()
            trace.steps.append(StepTrace(loops, torch.stack(residuals), norm))
        return carried

    def refine(self, h: Tensor, e: Tensor, loops: Tensor, residuals: list[Tensor] | None = None) -> Tensor:
        """Apply the shared update loops[i] times to row i.

        In training mode only the last `gradient_loops` of them carry gradients; in evaluation mode all do, as a planner
        that differentiates through the model expects.

        Args:
            h, e: (B, N, D).
            loops: (B,) on the CPU.
            residuals: filled with one (B,) per loop.
        """
        window = self.loop.gradient_loops
        truncated = self.training and torch.is_grad_enabled() and int(loops.max()) > window
        if not truncated:
            return self._iterate(h, e, loops, residuals)
        early = (loops - window).clamp(min=0)
        with torch.no_grad():
            deep = self._iterate(h, e, early, residuals)
        # Rows that fit into the window keep their start, and with a warm start its gradient.
        h = torch.where((loops > window).to(h.device)[:, None, None], deep, h)
        if residuals is None:
            return self._iterate(h, e, loops.clamp(max=window), None)
        late: list[Tensor] = []
        h = self._iterate(h, e, loops.clamp(max=window), late)
        residuals[:] = joined(residuals, late, early.to(h.device))
        return h

    def _iterate(self, h: Tensor, e: Tensor, loops: Tensor, residuals: list[Tensor] | None) -> Tensor:
        """The loop. A row whose loops are used up leaves the computation; order is restored at the end."""
        order = None
        if bool((loops[:-1] < loops[1:]).any()):
            loops, order = loops.sort(descending=True, stable=True)
            order = order.to(h.device)
            h, e = h[order], e[order]
        rows = len(h)
        held = self.held_input(e)
        finished: list[Tensor] = []
        for running in running_rows(loops):
            if running < len(h):
                finished.append(h[running:])
                # Copies, because a compiled update is compiled once more for views.
                h, e, held = h[:running].clone(), e[:running].clone(), held[:running].clone()
            before, h = h, self.update(h, e, held)
            if residuals is not None:
                residuals.append(relative_change(before, h, rows, order))
        h = torch.cat([h, *reversed(finished)]) if finished else h
        if order is None:
            return h
        return torch.empty_like(h).index_copy(0, order, h)

    def held_input(self, e: Tensor) -> Tensor:
        """The part of the input that no loop changes: B e for `zoh`, Delta B e for `euler`."""
        held = self.B(e).to(e.dtype)
        return held if self.loop.retention == "zoh" else self.retention.delta * held

    def update(self, h: Tensor, e: Tensor, held: Tensor) -> Tensor:
        """Eq. 5, one loop: h, e, held (B, N, D) -> (B, N, D). This is the part that is compiled."""
        abar, gain = self.retention.discretise()
        if self.loop.retention == "euler":
            return self.block(abar * h + held)
        w = self.norm_h(h) + e
        residual_branch = self.block(w) - w
        return abar * h + (1 - abar) * gain * (held + residual_branch)


def checked_loops(num_loops: int | Tensor, batch: int) -> Tensor:
    """T per row as (B,) int64 on the CPU.

    Raises:
        UserError: fewer than one loop, or not one number per row.
    """
    loops = torch.as_tensor(num_loops, device="cpu")
    if loops.is_floating_point():
        raise UserError(f"num_loops counts loops and must be an integer, got {loops.dtype} values.")
    loops = loops.long()
    loops = loops.expand(batch) if loops.ndim == 0 else loops
    if loops.shape != (batch,):
        raise UserError(f"num_loops must be one integer or have shape ({batch},), got shape {tuple(loops.shape)}.")
    if batch and int(loops.min()) < 1:
        raise UserError(f"num_loops must be at least 1, got {int(loops.min())}.")
    return loops


def running_rows(loops: Tensor) -> list[int]:
    """How many rows still run at loop 0, 1, ...; `loops` is sorted, largest first."""
    if not len(loops):
        return []
    depths = torch.arange(int(loops[0]))
    return (loops[None, :] > depths[:, None]).sum(1).tolist()


def joined(before: list[Tensor], after: list[Tensor], done: Tensor) -> list[Tensor]:
    """Residuals of two stretches of loops, each (B,) per loop, as one: row i made done[i] loops in the leading one."""
    both = torch.full((len(before) + len(after), len(done)), torch.nan, device=done.device)
    both[: len(before)] = torch.stack(before)
    late = torch.stack(after)
    loop, row = (~late.isnan()).nonzero(as_tuple=True)
    both[loop + done[row], row] = late[loop, row]
    return list(both)


def relative_change(before: Tensor, after: Tensor, rows: int, order: Tensor | None) -> Tensor:
    """|after - before| / |after| per row, in the caller's row order, NaN for rows that had left: (B,)."""
    before, after = before.detach(), after.detach()
    change = (after - before).flatten(1).norm(dim=1) / after.flatten(1).norm(dim=1).clamp(min=1e-12)
    full = change.new_full((rows,), torch.nan)
    return full.index_copy(
        0, torch.arange(len(change), device=full.device) if order is None else order[: len(change)], change
    )
