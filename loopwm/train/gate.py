"""`loopwm train-gate RUN`: a gate learned afterwards, on the frozen core of a finished run."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.data.windows import Windows, WindowSampler
from loopwm.errors import UserError
from loopwm.files import write_json
from loopwm.interrupts import deferred_interrupt
from loopwm.model.core import LoopedCore
from loopwm.model.gate import Gate, GateConfig
from loopwm.model.world_model import WorldModel
from loopwm.progress import Progress, SilentProgress
from loopwm.train.checkpoint import NAME, Checkpoint, gate_parts, read_checkpoint, save_checkpoint, weights_digest
from loopwm.train.config import GateTraining, OptimConfig
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import read_config
from loopwm.train.losses import shown, visible_steps
from loopwm.train.optimiser import learning_rate
from loopwm.train.runs import finished
from loopwm.train.trainer import Diverged, Interrupted

LOG = "gate.json"
FLOOR = 1e-4
"""Gain, in squared standard deviations, that is as good as none: a hundredth of a standard deviation, squared."""


@dataclass(frozen=True)
class GateResult:
    """A trained gate, as RUN/gate.json has it.

    Attributes:
        settings: how it was trained, `loops` filled in.
        weights: sha256 of the averaged weights it belongs to.
        seconds: spent training.
        losses: (update, mean loss since the line before).
    """

    settings: GateTraining
    weights: str
    seconds: float
    losses: list[tuple[int, float]]


def train_gate(
    run: Path,
    settings: GateTraining | None = None,
    progress: Progress | None = None,
    *,
    data: Path | None = None,
    overwrite: bool = False,
) -> GateResult:
    """Train a gate for a finished looped run and keep it in the run's checkpoint; all else in there stays as it is.

    Args:
        data: the recording the run was trained on; where its configuration says when None.
        overwrite: replace a gate that the run has already.

    Raises:
        UserError: no finished looped run there, it has a gate, or the recording is another one.
        Interrupted: stopped by Ctrl-C; the run is as it was.
        Diverged: the loss stopped being finite; the run is as it was.
    """
    run, settings = Path(run), settings or GateTraining()
    checkpoint = checked_run(run, overwrite)
    config = read_config(run / "config.yaml")
    loops = settings.loops or config.model.loop.mu
    if loops < 2:
        raise UserError(
            f"{run} makes one loop, so there is nothing to leave early; give the most it may make: --loops 2"
        )
    settings = replace(settings, loops=loops)
    with Store.open(data or config.data) as store:
        check_recording(run, checkpoint, store, data or config.data)
        sampler = WindowSampler(open_memmap(store), store.split("train"), settings.seed)
    device = resolve_device(settings.device)
    model = checkpoint.restore(checkpoint.blueprint.build(), "ema").to(device)
    alone = config.loss.imagined or config.loss.decoding == "deferred"
    lesson = Lesson(model, settings, config.train.window, config.loss.observed, config.loss.shown, alone)
    start = time.perf_counter()
    losses = lesson.fit(sampler, progress or SilentProgress(), run)
    weights = weights_digest(checkpoint.blueprint, checkpoint.part("ema"))
    result = GateResult(settings, weights, time.perf_counter() - start, losses)
    tensors, entry = gate_parts(lesson.gate, weights)
    kept = {name: value for name, value in checkpoint.tensors.items() if not name.startswith("gate.")}
    extras = {**checkpoint.extras, "gate": entry}
    save_checkpoint(run / NAME, checkpoint.blueprint, kept | tensors, checkpoint.state, extras)
    write_json(run / LOG, asdict(result))
    return result


def checked_run(run: Path, overwrite: bool) -> Checkpoint:
    """The checkpoint of a run that may get a gate.

    Raises:
        UserError: it may not.
    """
    checkpoint = read_checkpoint(run / NAME)
    system = checkpoint.blueprint.model.system
    if system != "looped":
        raise UserError(f"{run} holds a {system}, which has no loop to leave early; give a run of the looped system.")
    if finished(run) is None:
        resume = shlex.join(["loopwm", "train", "--resume", str(run)])
        raise UserError(
            f"{run} is not trained to its end, and a gate fits one state of the weights; finish it: {resume}"
        )
    if "gate" in checkpoint.extras and not overwrite:
        raise UserError(f"{run} has a gate already, which is not overwritten; replace it with --overwrite.")
    return checkpoint


def check_recording(run: Path, checkpoint: Checkpoint, store: Store, data: Path) -> None:
    """Refuse a recording that the run was not trained on: its training episodes could be what others are tested on."""
    expected = checkpoint.state["data_digest"]
    if store.digest != expected:
        raise UserError(
            f"{data} is not the recording that {run} was trained on (digest {store.digest[:12]} against "
            f"{expected[:12]}); give that recording with --data."
        )


class Lesson:
    """A gate in training: the frozen core runs to full depth T, and the gate learns how early it could have stopped.

    Targets, one per row and loop: `gain`, by how much the squared error exceeds that at full depth; `distance`, the
    squared distance of the prediction from that at full depth, which has the same expectation where the deepest
    prediction is right on average, and none of the noise of the outcome; `ouro`, whether the next loop is worth it.

    Windows are partly observed and partly imagined, or imagined from o_0 alone, as in the training of the core. At full
    depth no loop is left to judge, so the gate learns from loops 1 .. T-1.

    Args:
        model: gets the gate; its other weights are left alone.
        window: K, transitions per window.
        observed: share of the windows in which every observation is shown.
        shown: observations that every window shows at least.
        imagined: no window shows more than o_0.
    """

    def __init__(
        self,
        model: WorldModel,
        settings: GateTraining,
        window: int,
        observed: float,
        shown: int = 1,
        imagined: bool = False,
    ) -> None:
        assert isinstance(model.core, LoopedCore)
        self.loops = settings.loops or model.default_loops
        self.model, self.core = model, model.core
        self.settings, self.window, self.observed, self.shown = settings, window, observed, shown
        self.imagined = imagined
        torch.manual_seed(settings.seed)
        kind = "ouro" if settings.target == "ouro" else "gain"
        self.gate = Gate(GateConfig(kind, self.loops - 1, settings.hidden), model.config.width).to(model.device)
        model.eval().requires_grad_(False)
        model.gate = self.gate
        self.schedule = OptimConfig(lr=settings.lr, warmup=min(20, settings.updates))
        self.optimiser = torch.optim.AdamW(self.gate.parameters(), weight_decay=0.01)
        self.visibility_draws = torch.Generator().manual_seed(settings.seed + 2)
        self.mean = RunningMean()

    def fit(self, sampler: WindowSampler, progress: Progress, run: Path) -> list[tuple[int, float]]:
        """Make all updates; returns the losses of `GateResult`."""
        total, recent, losses = self.settings.updates, [], []
        with deferred_interrupt() as stopped:
            for update in range(1, total + 1):
                for group in self.optimiser.param_groups:
                    group["lr"] = learning_rate(self.schedule, update - 1, total)
                loss = self.advance(sampler.sample(self.settings.batch, self.window).to(self.model.device))
                if not math.isfinite(loss):
                    raise Diverged(
                        f"The loss of the gate is not finite at update {update}: lower --lr; {run} is as it was."
                    )
                recent.append(loss)
                if update % 10 == 0 or update == total:
                    losses.append((update, sum(recent) / len(recent)))
                    recent.clear()
                progress.advance(update, total, loss=loss)
                if stopped.is_set() and update < total:
                    raise Interrupted(f"Stopped at update {update} of {total}; {run} is as it was before.")
        return losses

    def advance(self, windows: Windows) -> float:
        """One update; returns its loss."""
        visible = (torch.arange(self.window) < 1).expand(len(windows), -1)
        if not self.imagined:
            visible = visible_steps(len(windows), self.window, self.observed, self.visibility_draws, self.shown)
        numbers, losses, distances = self.unroll(windows, visible.to(self.model.device))
        if self.settings.target == "ouro":
            worth = worthwhile(losses / self.mean.update(losses), self.settings.sharpness, self.settings.margin)
            loss = functional.binary_cross_entropy_with_logits(numbers[:-1], worth)
        else:
            remaining = distances if self.settings.target == "distance" else losses - losses[-1]
            loss = gain_loss(numbers[:-1], remaining[:-1])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def unroll(self, windows: Windows, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """After loops 1 .. T of every step, all (T, B, K): what the gate says, the normalised squared error, and the
        squared distance of the prediction from that at full depth, which is carried on."""
        model, embeddings = self.model, shown(self.model, windows, visible)
        truth = model.normalise(windows.observations)[..., model.observation_changes]
        # Entities that are not there count nothing, as in the training of the core.
        there = model.observation.weights(windows.observations) if model.observation.presence is not None else 1.0
        counts, truth = (there * torch.ones_like(truth)).flatten(2), truth.flatten(2)
        h, steps = model.initial(len(windows)), []
        for k in range(self.window):
            u = model.encode_action(windows.actions[:, k])
            path, e = self.core.path(h, embeddings[:, k], u, self.loops)
            numbers, outputs = model.judge(path, e)
            losses, distances = (
                ((outputs[1:] - aim).square() * counts[:, k + 1]).mean(-1) for aim in (truth[:, k + 1], outputs[-1])
            )
            steps.append((numbers, losses, distances))
            h = self.core.finish(path[-1])
        numbers, losses, distances = (torch.stack(part, dim=-1) for part in zip(*steps, strict=True))
        return numbers, losses, distances


class RunningMean:
    """Mean of all losses so far, the recent ones counting more; a plain number."""

    def __init__(self, decay: float = 0.99) -> None:
        self.decay, self.sum, self.weight = decay, 0.0, 0.0

    def update(self, losses: Tensor) -> float:
        """The mean, `losses` included."""
        self.sum = self.decay * self.sum + (1 - self.decay) * float(losses.mean())
        self.weight = self.decay * self.weight + (1 - self.decay)
        return self.sum / self.weight


def gain_loss(log_gain: Tensor, gain: Tensor) -> Tensor:
    """log(m + f) + (y + f) / (m + f), averaged; m = exp(log_gain) is smallest in it at the expectation of y = gain.

    Gains span orders of magnitude and are noisy: the squared error of y hears only the largest, and that of its
    logarithm, or of its root, has its minimum elsewhere. This one weighs relative errors and still has its minimum at
    the mean. y may be negative, where chance made the shallow prediction the better one.

    Source: quasi-likelihood of a gamma variable, McCullagh and Nelder, Generalized Linear Models, 1989.
    """
    expected = log_gain.exp() + FLOOR
    return (expected.log() + (gain + FLOOR) / expected).mean()


def worthwhile(losses: Tensor, sharpness: float, margin: float) -> Tensor:
    """sigmoid(k (I - gamma)), I^(t) = max(0, L^(t) - L^(t+1)): (T, ...) losses -> (T-1, ...), is loop t+1 worth it.

    Source: second stage of Ouro, arXiv 2510.25741.
    """
    improvement = (losses[:-1] - losses[1:]).clamp(min=0)
    return (sharpness * (improvement - margin)).sigmoid()
