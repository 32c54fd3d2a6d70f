"""One safetensors file per checkpoint: tensors, and everything else as JSON in its header. Never pickle.

A single file replaced by a rename cannot be torn: whatever happens, the previous checkpoint survives.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.files import atomic_write
from loopwm.model.config import ExitConfig, ModelConfig
from loopwm.model.gate import Gate, GateConfig
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.train.published import folders as published

FORMAT = 1
NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Blueprint:
    """What is needed to build the model before its weights are loaded."""

    model: ModelConfig
    observation: ObservationSpec
    action: ActionSpec

    @classmethod
    def of(cls, model: WorldModel) -> Blueprint:
        """The blueprint of an existing model."""
        return cls(model.config, model.observation, model.action)

    def build(self) -> WorldModel:
        """A model with fresh weights and neutral statistics, to be overwritten by `load_state_dict`."""
        features, actions = self.observation.num_features, self.action.stored_size
        neutral = Statistics(
            observation_mean=np.zeros(features, np.float32),
            observation_std=np.ones(features, np.float32),
            observation_changes=np.ones(features, bool),
            action_mean=np.zeros(actions, np.float32),
            action_std=np.ones(actions, np.float32),
            reward_mean=0.0,
            reward_std=1.0,
        )
        return WorldModel(self.model, self.observation, self.action, neutral)


def save_checkpoint(
    path: Path,
    blueprint: Blueprint,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    extras: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically.

    Args:
        tensors: flat names; weights under `model.` and `ema.`, a gate under `gate.`, the rest is the trainer's.
        state: anything JSON can hold.
        extras: name -> anything JSON can hold, about what stands beside the weights, such as a gate.

    Raises:
        LoopwmError: the disk refused; the previous checkpoint is untouched.
    """
    header = {"format": FORMAT, "blueprint": asdict(blueprint), "state": state, "extras": extras or {}}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as aside:
        try:
            save_file(contiguous, aside, metadata={"loopwm": json.dumps(header)})
        except SafetensorError as error:
            # safetensors wraps the operating system's refusal in an error of its own.
            raise OSError(str(error)) from error


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: its blueprint, its tensors by name, its JSON state, what stands beside the weights."""

    path: Path
    blueprint: Blueprint
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    extras: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        start = prefix + "."
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}

    def restore(self, model: WorldModel, weights: str) -> WorldModel:
        """Load the `weights` ("model" or "ema") of this checkpoint into `model`.

        Raises:
            UserError: the model has another architecture.
        """
        found = self.part(weights)
        if "reward_head.std" not in found:
            # From before heads knew the unit of rewards. Their weights, and so their digest, stay as they are.
            model.reward_head.forget_units()
        wanted = world_weights(model)
        wrong = [name for name in wanted if name not in found or found[name].shape != wanted[name].shape]
        wrong += [name for name in found if name not in wanted]
        if wrong:
            raise UserError(
                f"{self.path} holds another architecture ({self.blueprint.model.system}, width "
                f"{self.blueprint.model.width}): '{wrong[0]}' does not fit; load it with its own configuration."
            )
        # Every name was compared above; what is not there is a gate, which has its own place.
        model.load_state_dict(found, strict=False)
        return model

    def restore_gate(self, model: WorldModel) -> None:
        """Give `model`, which holds the `ema` weights, the gate of this checkpoint, if there is one.

        Raises:
            UserError: the gate was trained for other weights, or has another shape.
        """
        if "gate" not in self.extras:
            return
        entry, again = self.extras["gate"], shlex.join(["loopwm", "train-gate", str(self.path.parent), "--overwrite"])
        if entry["weights"] != weights_digest(self.blueprint, self.part("ema")):
            raise UserError(
                f"{self.path} holds a gate that was trained for other weights; train it again with: {again}"
            )
        try:
            gate = Gate(TypeAdapter(GateConfig).validate_python(entry["config"]), model.config.width)
            gate.load_state_dict(self.part("gate"))
        except (ValidationError, RuntimeError) as error:
            raise UserError(
                f"{self.path} holds a gate this loopwm cannot build; train it again with: {again}"
            ) from error
        model.gate = gate.to(model.device).eval()

    def restore_exit(self, model: WorldModel) -> None:
        """Give `model`, which holds the `ema` weights, the calibrated exit of this checkpoint, if there is one.

        Raises:
            UserError: the exit was calibrated for other weights, or for another gate.
        """
        if "exit" not in self.extras:
            return
        entry = self.extras["exit"]
        exit = TypeAdapter(ExitConfig).validate_python(entry["exit"])
        if entry["weights"] != self.exit_digest(exit):
            raise UserError(
                f"{self.path} holds an exit that was calibrated for other weights; calibrate it again with: "
                f"{shlex.join(['loopwm', 'calibrate', str(self.path.parent), '--overwrite'])}"
            )
        model.exit = exit

    def exit_digest(self, exit: ExitConfig) -> str:
        """sha256 of all that decides when rows leave: the `ema` weights, and the gate of a rule that asks it."""
        asked = self.part("gate") if exit.rule == "gate" else {}
        return weights_digest(self.blueprint, {**self.part("ema"), **{f"gate.{name}": t for name, t in asked.items()}})


def world_weights(model: WorldModel) -> dict[str, Tensor]:
    """The state of a model without its gate, which a checkpoint keeps apart: no hash of the model depends on it."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("gate.")}


def weights_digest(blueprint: Blueprint, weights: dict[str, Tensor]) -> str:
    """sha256 over the architecture and over name, type, shape and bytes of every tensor in `weights`.

    The rest of a checkpoint (optimiser, random streams, progress, gate) may differ without changing the model.
    """
    architecture = asdict(blueprint)
    if blueprint.observation.kind != "image":
        # Means nothing there, and weights from before there were images, or texts, keep their digest.
        del architecture["model"]["image_encoder"]
    if blueprint.observation.kind != "entities" or blueprint.model.entity_tokens == "each":
        # Likewise from before entities could share tokens.
        del architecture["model"]["entity_tokens"]
    if blueprint.observation.kind != "text":
        del architecture["model"]["text"]
    sha = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy knows no bfloat16.
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def gate_parts(gate: Gate, weights: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A gate as a checkpoint holds it: its tensors, and its entry among the `extras`.

    Args:
        weights: digest of the `ema` weights that it was trained for.
    """
    # Copies, because a safetensors file holds no memory twice.
    tensors = {f"gate.{name}": value.clone() for name, value in gate.state_dict().items()}
    return tensors, {"config": asdict(gate.config), "weights": weights}


def read_checkpoint(
    path: Path, prefixes: tuple[str, ...] | None = None, device: str | torch.device = "cpu"
) -> Checkpoint:
    """Read a checkpoint file, or only the tensors under some prefixes.

    Raises:
        UserError: missing, truncated, not a loopwm checkpoint, or written by another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no checkpoint at {path}; train one with: "
            f"loopwm train billiards --run {shlex.quote(str(path.parent))}"
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as stream:
            header = json.loads((stream.metadata() or {}).get("loopwm", "null"))
            # A safetensors handle is no dict: it cannot be iterated over.
            names = [name for name in stream.keys() if prefixes is None or name.startswith(prefixes)]  # noqa: SIM118
            tensors = {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({error}): it is truncated or not a safetensors file; restore a "
            "copy or train again."
        ) from error
    if not isinstance(header, dict) or "blueprint" not in header:
        raise UserError(f"{path} is a safetensors file, but not one that loopwm wrote; give a loopwm checkpoint.")
    if header["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {header['format']}, this loopwm reads format {FORMAT}; "
            "use the loopwm version that wrote it."
        )
    try:
        blueprint = TypeAdapter(Blueprint).validate_python(header["blueprint"])
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UserError(f"{path} describes a model this loopwm cannot build: {where}: {fault['msg']}.") from error
    return Checkpoint(path, blueprint, tensors, header["state"], header.get("extras", {}))


def resolve(run: str | Path) -> Path:
    """The checkpoint file of a run folder, of itself, or of a model that comes with loopwm and has that name."""
    path = Path(run)
    if not path.exists() and str(run) in (known := published()):
        path = known[str(run)]
    return path if path.is_file() else path / NAME


def load(run: str | Path, weights: str = "ema", device: str | torch.device = "cpu") -> WorldModel:
    """The trained model of a run folder (or checkpoint file), ready to use.

    The `ema` weights come with their gate and their calibrated exit, where the run has them.

    Args:
        run: a run folder, a checkpoint file, or the name of a model that comes with loopwm.
        weights: `ema`, the averaged weights used for every reported number, or `model`, the last ones.

    Raises:
        UserError: no checkpoint there, not one of ours, or its gate or its exit belongs to other weights.
    """
    if weights not in ("ema", "model"):
        raise UserError(f"weights must be 'ema' or 'model', got '{weights}'.")
    checkpoint = read_checkpoint(resolve(run), (weights + ".", "gate."), device)
    model = checkpoint.restore(checkpoint.blueprint.build().to(device), weights).eval()
    if weights == "ema":
        checkpoint.restore_gate(model)
        checkpoint.restore_exit(model)
    return model
