"""The looped dynamics core, Eq. 4, 5 and 8: prelude, one shared block applied T times, coda."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopwm.errors import UserError
from loopwm.model.accounting import layers_flops, linear_flops
from loopwm.model.block import Layers
from loopwm.model.config import ModelConfig
from loopwm.model.exits import Exit, relative
from loopwm.model.retention import Retention
from loopwm.model.trace import StepTrace, Trace


class Prelude(nn.Module):
    """Eq. 4: e = Norm(P([h_{k-1}; e_k; u_k])), or without the norm.

    The encoders end in a linear map onto D channels, so concatenating and projecting is the same as adding; an absent
    observation is simply not added. Memory across environment steps travels through here.
    """

    def __init__(self, config: ModelConfig, depth: int, normalise: bool) -> None:
        super().__init__()
        self.from_latent = nn.Linear(config.width, config.width, bias=False)
        self.layers = Layers(depth, config.width, config.heads, config.hidden)
        self.norm = nn.RMSNorm(config.width) if normalise else nn.Identity()

    def forward(self, h: Tensor, e: Tensor | None, u: Tensor) -> Tensor:
        """h, e (B, N, D), u (B, 1, D) -> e (B, N, D)."""
        # Under autocast the products are bfloat16; the sum that all layers add to is not.
        x = self.from_latent(h).to(h.dtype) + u
        return self.norm(self.layers(x if e is None else x + e))


class Phases(nn.Module):
    """What marks the leading loops, so that one block can do one thing at the start and another at the end.

    For every layer of the block: an addition to the gains of its two norms, and a shift of what its MLP reads. All
    start at zero. Loops beyond the last marked one share its marks, so that the loop can still settle.

    Source: after the depth embeddings of the Universal Transformer, arXiv 1807.03819, but inside the norms.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.marks = nn.Parameter(torch.zeros(config.loop.phases, config.shared, 3, 1, config.width))

    def forward(self, loop: int | Tensor) -> Tensor | None:
        """Index of a loop, from 0, or one per row (R,) -> (1 or R, layers, 3, 1, D); None if all loops are the same."""
        last = len(self.marks) - 1
        if last < 0:
            return None
        if isinstance(loop, int):
            # A copy, because without gradients a view of a parameter still claims to have one.
            return self.marks[min(loop, last)][None].clone()
        return self.marks[loop.clamp(max=last).to(self.marks.device)]


Held = tuple[Tensor, ...]
"""What the loop reads of e and never changes: one tensor per part, rows of the batch along their leading axis."""


class LoopedCore(nn.Module):
    """h_k = L(h_{k-1}, e_k, u_k) with T loops, T chosen per row at run time.

    Initialisation: B is the identity, a = 0, Delta = -log(abar); the block starts as an ordinary transformer layer.
    """

    loopable = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.loop = config.loop
        self.prelude = Prelude(config, config.prelude, config.loop.normalise_input)
        self.build_update(config)
        self.B = nn.Linear(config.width, config.width, bias=False)
        nn.init.eye_(self.B.weight)
        self.coda = Layers(config.coda, config.width, config.heads, config.hidden)
        self.norm_out = nn.RMSNorm(config.width)

    def build_update(self, config: ModelConfig) -> None:
        """The modules that `update` applies again and again; a core with another update brings its own."""
        self.norm_h = nn.RMSNorm(config.width) if config.loop.retention == "zoh" else nn.Identity()
        self.block = Layers(config.shared, config.width, config.heads, config.hidden)
        self.phases = Phases(config)
        self.retention = Retention(config.width, config.loop.abar)

    def forward(
        self,
        h: Tensor,
        e: Tensor | None,
        u: Tensor,
        num_loops: int | Tensor,
        trace: Trace | None = None,
        leave: Exit | None = None,
    ) -> Tensor:
        """One environment step.

        Args:
            h: (B, N, D) latent carried from the previous step.
            e: (B, N, D) embedded observation, or None when imagining.
            u: (B, 1, D) embedded action.
            num_loops: T, one for all rows or (B,) one for each; at least 1.
            trace: filled with this step's loops, residuals and norms when given.
            leave: lets rows stop before T.

        Returns:
            h_k (B, N, D), normalised, so that |h_k| stays bounded over any horizon.
        """
        loops = checked_loops(num_loops, len(h))
        injected = self.prelude(h, e, u)
        start = self.start(h, injected)
        residuals: list[Tensor] | None = [] if trace is not None and trace.residuals else None
        if leave is None:
            settled = self.refine(start, injected, loops, residuals)
        else:
            settled, loops = self.refine_until(start, injected, loops, leave, residuals)
        carried = self.finish(settled)
        if trace is not None:
            norm = carried.detach().pow(2).mean((-1, -2)).sqrt()
            moved = norm.new_empty(0, len(norm)) if residuals is None else torch.stack(residuals)
            trace.steps.append(StepTrace(loops, moved, norm))
        return carried

    def path(self, h: Tensor, e: Tensor | None, u: Tensor, num_loops: int) -> tuple[Tensor, Tensor]:
        """Every state of one environment step, with gradients through all of them; arguments as in `forward`.

        Returns:
            h^(0) .. h^(T) (T+1, B, N, D), and e (B, N, D) as the loop reads it.
        """
        injected = self.prelude(h, e, u)
        states, held = [self.start(h, injected)], self.held_input(injected)
        for loop in range(num_loops):
            states.append(self.moved(states[-1], injected, held, torch.tensor([loop])))
        return torch.stack(states), injected

    def start(self, h: Tensor, e: Tensor) -> Tensor:
        """h^(0) of a step, all (B, N, D)."""
        return {"input": e, "previous": h}.get(self.loop.start, torch.zeros_like(e))

    def finish(self, h: Tensor) -> Tensor:
        """Eq. 8: the loop's last state (B, N, D) -> the carried latent h_k (B, N, D)."""
        return self.norm_out(self.coda(h))

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
            return self._iterate(h, e, loops.clamp(max=window), None, early)
        late: list[Tensor] = []
        h = self._iterate(h, e, loops.clamp(max=window), late, early)
        residuals[:] = joined(residuals, late, early.to(h.device))
        return h

    def _iterate(
        self, h: Tensor, e: Tensor, loops: Tensor, residuals: list[Tensor] | None, made: Tensor | None = None
    ) -> Tensor:
        """The loop. A row whose loops are used up leaves the computation; order is restored at the end.

        `made` (B,): loops that rows have behind them already.
        """
        order = None
        if bool((loops[:-1] < loops[1:]).any()):
            loops, order = loops.sort(descending=True, stable=True)
            order = order.to(h.device)
            h, e = h[order], e[order]
            made = made if made is None else made[order.cpu()]
        rows = len(h)
        held = self.held_input(e)
        finished: list[Tensor] = []
        for loop, running in enumerate(running_rows(loops)):
            if running < len(h):
                h, done = h.split([running, len(h) - running])
                finished.append(done)
                # Copies, because a compiled update is compiled once more for views.
                h, e = h.clone(), e[:running].clone()
                held = tuple(part[:running].clone() for part in held)
            before, h = h, self.moved(h, e, held, loop if made is None else made[:running] + loop)
            if residuals is not None:
                residuals.append(relative_change(before, h, rows, order))
        h = torch.cat([h, *reversed(finished)]) if finished else h
        if order is None:
            return h
        return torch.empty_like(h).index_copy(0, order, h)

    def refine_until(
        self, h: Tensor, e: Tensor, loops: Tensor, leave: Exit, residuals: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the shared update until `leave` lets a row go, at most loops[i] times to row i.

        A row that leaves is no longer computed, so its state is final. All loops carry gradients.

        Returns:
            The states (B, N, D) and the loops used (B,), both in the order of the rows given.
        """
        limit, ids = loops.to(h.device).sort(descending=True, stable=True)
        h, e = h[ids], e[ids]
        held, signal, rows = self.held_input(e), leave.watch(h, e), len(h)
        final, used = torch.empty_like(h), torch.empty_like(limit)
        loop = 0
        while len(h):
            before, h = h, self.moved(h, e, held, loop)
            loop += 1
            if residuals is not None:
                residuals.append(relative_change(before, h, rows, ids))
            done = limit <= loop
            quiet = signal.look(h) < leave.threshold
            if loop >= leave.min_loops:
                done = done | quiet
            if not bool(done.any()):
                continue
            leaving, staying = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
            final = final.index_copy(0, ids[leaving], h[leaving])
            used = used.index_fill(0, ids[leaving], loop)
            h, e, ids, limit = h[staying], e[staying], ids[staying], limit[staying]
            held = tuple(part[staying] for part in held)
            signal.keep(staying)
        return final, used.cpu()

    def moved(self, h: Tensor, e: Tensor, held: Held, loop: int | Tensor) -> Tensor:
        """h after loop number `loop`, counted from 0, one for all rows or (B,)."""
        return self.move(h, e, held, self.phases(loop), self.step_size(h, loop))

    def step_size(self, h: Tensor, loop: int | Tensor) -> Tensor | None:
        """(mu / t)^settle of the loops t > mu, (1, 1, 1) or (B, 1, 1); None where every row makes a whole step."""
        exponent = self.loop.settle if self.training else self.loop.settle_eval
        counted = loop if isinstance(loop, int) else int(loop.max())
        if exponent == 0 or counted < self.loop.mu:
            return None
        t = torch.as_tensor(loop).to(h).reshape(-1, 1, 1) + 1
        return (self.loop.mu / t).clamp(max=1.0) ** exponent

    def move(self, h: Tensor, e: Tensor, held: Held, phase: Tensor | None, size: Tensor | None) -> Tensor:
        """A whole `update`, or the part `size` of one. This is what is compiled."""
        after = self.update(h, e, held, phase)
        return after if size is None else h + size * (after - h)

    def held_input(self, e: Tensor) -> Held:
        """The part of the input that no loop changes, (B, N, D): B e for `zoh`, Delta B e for `euler`."""
        held = self.B(e).to(e.dtype)
        return (held if self.loop.retention == "zoh" else self.retention.delta * held,)

    def update(self, h: Tensor, e: Tensor, held: Held, phase: Tensor | None = None) -> Tensor:
        """Eq. 5, one loop: h, e (B, N, D), phase from `Phases` -> (B, N, D)."""
        abar, gain = self.retention.discretise()
        (injected,) = held
        if self.loop.retention == "euler":
            return self.block(abar * h + injected, phase)
        w = self.norm_h(h) + e
        residual_branch = self.block(w, phase) - w
        return abar * h + (1 - abar) * gain * (injected + residual_branch)

    def sections(self) -> dict[str, list[nn.Module]]:
        """The parts after the prelude, named for people."""
        return {
            "held": [self.B],
            "retention": [self.retention],
            "block": [self.norm_h, self.block, self.phases],
            "coda": [self.coda, self.norm_out],
        }

    def held_flops(self, tokens: int) -> int:
        """Operations of `held_input` for one row."""
        return linear_flops(self.B, tokens)

    def loop_flops(self, tokens: int) -> int:
        """Operations of one `update` of one row."""
        return layers_flops(self.block, tokens, self.block.width)


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
    change = relative(after - before, after)
    full = change.new_full((rows,), torch.nan)
    return full.index_copy(
        0, torch.arange(len(change), device=full.device) if order is None else order[: len(change)], change
    )
