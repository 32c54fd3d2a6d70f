"""The training loop: windows in, checkpoints and a log out; interruptible and resumable."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loopwm.data.ahead import ReadAhead
from loopwm.data.windows import SamplerState, Windows
from loopwm.errors import LoopwmError, UserError
from loopwm.interrupts import deferred_interrupt, sparing_children
from loopwm.model.depth import sample_loops
from loopwm.model.gate import Gate, GateConfig
from loopwm.model.world_model import WorldModel
from loopwm.monitor.config import ProfileConfig
from loopwm.monitor.reference import FILE as REFERENCE
from loopwm.monitor.reference import measure
from loopwm.monitor.reference import store as store_reference
from loopwm.presets import RunConfig
from loopwm.progress import Progress
from loopwm.spaces import ObservationSpec
from loopwm.train.augment import offsets, shifted
from loopwm.train.checkpoint import (
    NAME,
    Blueprint,
    Checkpoint,
    gate_parts,
    save_checkpoint,
    weights_digest,
    world_weights,
)
from loopwm.train.config import LossConfig
from loopwm.train.curriculum import draw_shape
from loopwm.train.data import training_data
from loopwm.train.deferred import DeferredDecoding
from loopwm.train.embedding import EmbeddingAlignment
from loopwm.train.halting import halting_loss
from loopwm.train.hardware import (
    Heap,
    Precision,
    autocast,
    compiler_works,
    faster_precision,
    native_precision,
    peak_memory,
    resolve_device,
)
from loopwm.train.journal import Journal, write_run_info
from loopwm.train.losses import LossTerms, Objective, PerStepDecoding, visible_steps
from loopwm.train.optimiser import Average, Optimiser, learning_rate
from loopwm.train.start import Start
from loopwm.train.text import TextDecoding
from loopwm.train.validation import validate


class Interrupted(LoopwmError):
    """Training was stopped by the user; everything is saved."""

    exit_code = 130


class Diverged(LoopwmError):
    """Too many updates in a row had a non-finite loss or gradient."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    Attributes:
        run: its folder.
        validation: what `validate` says of the averaged weights.
        updates: how many were made. skipped: how many of them were left out for being non-finite.
        seconds: spent training, over all resumptions.
    """

    run: Path
    validation: dict[str, float]
    updates: int
    skipped: int
    seconds: float


def continuing(run: Path) -> str:
    """The command that continues a run."""
    return shlex.join(["loopwm", "train", "--resume", str(run)])


class Trainer:
    """Holds all that changes during training; `save` and `restore` name every part of it."""

    def __init__(self, config: RunConfig, run: Path) -> None:
        self.config, self.run = config, run
        self.device = resolve_device(config.train.device)
        start = None if config.start is None else Start.read(config.start)
        if start is not None:
            start.refuse_other_model(config.model)
        data = training_data(config, None if start is None else start.words)
        if start is not None:
            data = start.carried_on(data, config.data)
        self.started_from = "" if start is None else start.digest
        self.digest, self.statistics, self.columns = data.digest, data.statistics, data.columns
        self.sampler, self.validation = data.sampler, data.validation
        self.validation_episodes = data.validation_episodes
        self.windows = ReadAhead(self.sampler, pinned=self.device.type == "cuda")
        self.waited = 0.0
        torch.manual_seed(config.train.seed)
        self.model = WorldModel(config.model, data.observation, data.action, self.statistics)
        if start is not None:
            start.give(self.model)
        self.model.to(self.device)
        self.objective = objective(config.loss, self.statistics.reward_std, data.observation)
        if config.halt.mode != "off":
            gate = GateConfig(config.halt.mode, marks=config.model.loop.mu)
            self.model.gate = Gate(gate, config.model.width).to(self.device)
        # Refused here, not at the first validation.
        self.model.exit_rule(config.train.exit)
        self.average = Average(self.model, config.optim.ema)
        self.optimiser = Optimiser(self.model, config.optim)
        # Each has its own stream: a stack draws no depths, yet must be shown what the looped model is shown.
        self.depth_draws = torch.Generator().manual_seed(config.train.seed + 1)
        self.visibility_draws = torch.Generator().manual_seed(config.train.seed + 2)
        self.compiled = config.train.compile and compiler_works(self.device)
        if self.compiled:
            self.model.compile_blocks()
        self.precision: Precision = "float32"
        self.update, self.skipped, self.seconds = 0, 0, 0.0
        self.last_validation: dict[str, float] = {}

    # ---- one update ----

    def loss(self, windows: Windows, precision: Precision) -> LossTerms:
        """Draw depths and visibility, unroll, and compare: Eq. 10 or 19, or with a gate in training."""
        config, looped = self.config, self.model.core.loopable
        loops = sample_loops(config.model.loop, len(windows), self.depth_draws) if looped else None
        if loops is not None and config.halt.mode != "off":
            window, shown = windows.rewards.shape[1], config.loss.shown
            visible = visible_steps(len(windows), window, config.loss.observed, self.visibility_draws, shown)
            with autocast(self.device, precision):
                return halting_loss(
                    self.model,
                    windows,
                    visible.to(self.device),
                    loops,
                    config.loss,
                    config.halt,
                    self.statistics.reward_std,
                )
        with autocast(self.device, precision):
            latents = self.objective.unroll(self.model, windows, loops, self.visibility_draws).float()
        # Numbers are compared in full precision; of a text, decoding is most of the work.
        with autocast(self.device, precision if self.model.reads_text else "float32"):
            return self.objective.terms(self.model, windows, latents)

    def draw(self) -> Windows:
        """The next training batch, on the device; the one after it is read meanwhile."""
        settings, start = self.config.train, time.perf_counter()
        following = draw_shape(settings, self.update + 1) if self.update + 1 < settings.updates else None
        windows = self.windows.take(*draw_shape(settings, self.update), following).to(self.device)
        self.waited += time.perf_counter() - start
        if settings.shift:
            windows = shifted(
                windows, offsets(settings.seed, self.update, len(windows), settings.shift), settings.shift
            )
        return windows

    def attempt(self) -> dict[str, float]:
        """`advance`; the earliest updates have torch compile what repeats.

        Raises:
            LoopwmError: torch could not.
        """
        try:
            with sparing_children():
                return self.advance()
        except (RuntimeError, ImportError) as error:
            # A library that cannot be loaded is an ImportError, wrapped by torch or not.
            theirs = isinstance(error, ImportError) or type(error).__module__.startswith("torch._")
            if not (self.compiled and theirs):
                raise
            raise LoopwmError(
                f"torch could not compile the model ({str(error).splitlines()[0]}); remove what it has compiled before "
                "(TORCHINDUCTOR_CACHE_DIR, or torchinductor_USER among the temporary files), or train with "
                "--train.no-compile."
            ) from error

    def advance(self) -> dict[str, float]:
        """One optimiser update; a non-finite loss or gradient is counted and skipped."""
        rate = learning_rate(self.config.optim, self.update, self.config.train.updates)
        self.optimiser.set_rate(rate)
        # Before the memory of this update is taken, so that gradients do not lie scattered in the middle of it.
        self.optimiser.zero_grad()
        windows = self.draw()
        terms = self.loss(windows, self.precision)
        terms.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        finite = math.isfinite(float(norm)) and math.isfinite(float(terms.total.detach()))
        if finite:
            self.optimiser.step()
            self.model.project()
            self.average.update(self.model, self.update)
        else:
            self.skipped += 1
        self.update += 1
        fields = {"window": windows.rewards.shape[1], "gradient_norm": float(norm), "lr": rate, "finite": float(finite)}
        return terms.detached() | fields

    def settle_precision(self) -> None:
        """Choose the precision, by measuring when asked to; leaves every random stream as it was."""
        wanted = self.config.train.precision
        info: dict[str, Any] = {}
        if wanted == "auto":
            sampler, windows = self.sampler.state(), self.draw()
            streams = [(stream, stream.get_state()) for stream in (self.depth_draws, self.visibility_draws)]

            def work(precision: Precision) -> None:
                for stream, state in streams:
                    stream.set_state(state)
                with sparing_children():
                    self.loss(windows, precision).total.backward()

            choice = faster_precision(self.device, work)
            for stream, state in streams:
                stream.set_state(state)
            self.optimiser.zero_grad()
            self.sampler.restore(sampler)
            self.precision, info["precision_seconds"] = choice.precision, choice.seconds
        else:
            self.precision = native_precision(self.device) if wanted == "native" else wanted
        write_run_info(
            self.run,
            data_digest=self.digest,
            started_from=self.started_from,
            device=str(self.device),
            threads=torch.get_num_threads(),
            precision=self.precision,
            compiled=self.compiled,
            parameters=self.model.num_parameters(),
            **info,
        )

    # ---- the loop ----

    def fit(self, progress: Progress) -> TrainResult:
        """Update until done, interrupted or hopeless; save on the way and at the end."""
        settings = self.config.train
        journal, heap = Journal(self.run, self.update), Heap()
        begun, bad_in_a_row, saved_at = self.update, 0, time.monotonic()
        try:
            with deferred_interrupt() as stopped:
                while self.update < settings.updates:
                    start = time.perf_counter()
                    fields = self.attempt()
                    heap.trim()
                    self.seconds += time.perf_counter() - start
                    bad_in_a_row = 0 if fields.pop("finite") else bad_in_a_row + 1
                    last = self.update == settings.updates
                    if self.update % settings.log_every == 0 or last or bad_in_a_row:
                        journal.write(self.update, **_json_numbers(fields), skipped=self.skipped, seconds=self.seconds)
                    if self.update % settings.validate_every == 0 or last:
                        self.last_validation = validate(self.average.model, self.validation, self.device, settings.exit)
                        found = {"validation": self.last_validation, "peak_memory_gib": peak_memory()}
                        journal.write(self.update, **found, seconds=self.seconds)
                    progress.advance(self.update, settings.updates, loss=fields["loss"], skipped=self.skipped)
                    if bad_in_a_row >= settings.max_skipped:
                        raise Diverged(
                            f"{bad_in_a_row} updates in a row were non-finite at update {self.update} of {self.run}: "
                            "lower optim.lr; the last checkpoint is from before that."
                        )
                    # A periodic checkpoint taken while the run is diverging would spoil the last good one.
                    due = time.monotonic() - saved_at > settings.checkpoint_every and not bad_in_a_row
                    if stopped.is_set() or last or due:
                        self.save()
                        saved_at = time.monotonic()
                    if stopped.is_set() and not last:
                        raise Interrupted(
                            f"Stopped at update {self.update} of {settings.updates}, everything is saved; go on with: "
                            f"{continuing(self.run)}"
                        )
        finally:
            journal.close()
            self.windows.close()
        # After the last checkpoint: a run that is killed here is resumed here.
        due = self.model.core.loopable and (self.update > begun or not (self.run / REFERENCE).is_file())
        if due and self.columns is not None:
            store_reference(
                measure(self.run, self.columns, self.validation_episodes, ProfileConfig(), device=self.device), self.run
            )
        return TrainResult(self.run, self.last_validation, self.update, self.skipped, self.seconds)

    # ---- everything that must survive ----

    def save(self) -> None:
        """Write RUN/checkpoint.safetensors."""
        averaged = world_weights(self.average.model)
        tensors = {f"model.{name}": value for name, value in world_weights(self.model).items()}
        tensors |= {f"ema.{name}": value for name, value in averaged.items()}
        optimiser = self.optimiser.state()
        tensors |= {f"optimiser.{i}.{name}": value for i, slot in optimiser.items() for name, value in slot.items()}
        tensors["draws.depth"] = self.depth_draws.get_state()
        tensors["draws.visibility"] = self.visibility_draws.get_state()
        state = {
            "update": self.update,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "sampler": asdict(self.sampler.state()),
            "validation": self.last_validation,
            "data_digest": self.digest,
            "started_from": self.started_from,
        }
        blueprint, extras = Blueprint.of(self.model), {}
        if self.model.gate is not None and self.average.model.gate is not None:
            # Apart from the gate that is used, because `loopwm train-gate` may replace that one.
            for name, gate in (("joint_model", self.model.gate), ("joint_ema", self.average.model.gate)):
                tensors |= {f"{name}.{part}": value for part, value in gate.state_dict().items()}
            used, extras["gate"] = gate_parts(self.average.model.gate, weights_digest(blueprint, averaged))
            tensors |= used
        save_checkpoint(self.run / NAME, blueprint, tensors, state, extras)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put everything back as `save` found it.

        Raises:
            UserError: the recorded data is not the data this run was trained on, or it was started from other weights.
        """
        state = checkpoint.state
        if state["data_digest"] != self.digest:
            raise UserError(
                f"{self.config.data} is not the recording that {self.run} was trained on (digest {self.digest[:12]} "
                f"against {state['data_digest'][:12]}); put that recording back to resume."
            )
        if state.get("started_from", "") != self.started_from:
            raise UserError(
                f"{self.config.start} is no longer the model that {self.run} was started from; put that back to resume."
            )
        checkpoint.restore(self.model, "model")
        checkpoint.restore(self.average.model, "ema")
        if self.model.gate is not None and self.average.model.gate is not None:
            self.model.gate.load_state_dict(checkpoint.part("joint_model"))
            self.average.model.gate.load_state_dict(checkpoint.part("joint_ema"))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.part("optimiser").items():
            index, key = name.split(".", 1)
            slots.setdefault(int(index), {})[key] = value
        self.optimiser.restore(slots)
        self.depth_draws.set_state(checkpoint.tensors["draws.depth"])
        self.visibility_draws.set_state(checkpoint.tensors["draws.visibility"])
        self.sampler.restore(SamplerState(**state["sampler"]))
        self.update, self.skipped, self.seconds = state["update"], state["skipped"], state["seconds"]
        self.precision, self.last_validation = state["precision"], state["validation"]
        # Another number of threads adds up in another order, and the rest of the run would differ in the last bits.
        torch.set_num_threads(state["threads"])


def objective(config: LossConfig, reward_std: float, observation: ObservationSpec) -> Objective:
    """What a configuration holds latents to."""
    if observation.kind == "text":
        return TextDecoding(config, reward_std)
    if config.objective == "embed":
        return EmbeddingAlignment(config, reward_std)
    return (DeferredDecoding if config.decoding == "deferred" else PerStepDecoding)(config, reward_std)


def _json_numbers(fields: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in fields.items()}
