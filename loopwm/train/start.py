"""Weights to begin a training with: what a model has learned is gone on with, on other data or for longer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.config import ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.train.checkpoint import Blueprint, Checkpoint, read_checkpoint, resolve, weights_digest
from loopwm.train.data import TrainingData
from loopwm.train.journal import flat


@dataclass(frozen=True)
class Start:
    """The averaged weights of a trained model, and what they were trained to read.

    Attributes:
        digest: sha256 of architecture and weights.
    """

    checkpoint: Checkpoint
    digest: str

    @classmethod
    def read(cls, place: Path) -> Start:
        """The model of a run folder, of a checkpoint file, or of that name among those that come with loopwm.

        Raises:
            UserError: there is none.
        """
        checkpoint = read_checkpoint(resolve(place), ("ema.",))
        return cls(checkpoint, weights_digest(checkpoint.blueprint, checkpoint.part("ema")))

    @property
    def blueprint(self) -> Blueprint:
        """Its architecture and its spaces."""
        return self.checkpoint.blueprint

    @property
    def words(self) -> tuple[str, ...] | None:
        """The vocabulary of a model of texts: what its words are called must not change. None of any other."""
        return self.blueprint.observation.names if self.blueprint.observation.kind == "text" else None

    def refuse_other_model(self, wanted: ModelConfig) -> None:
        """Raise UserError where a model is configured that these weights do not fit."""
        one, other = flat(asdict(self.blueprint.model)), flat(asdict(wanted))
        for name, value in one.items():
            if other.get(name) != value:
                raise UserError(
                    f"{self.checkpoint.path} was trained with model.{name} = {value}, and {other.get(name)} is asked "
                    "for; leave out what changes the model: what is started from decides it."
                )

    def carried_on(self, data: TrainingData, name: Path) -> TrainingData:
        """A recording in the scales of this model, and in its spaces.

        Raises:
            UserError: other things are observed or done there.
        """
        own = self.blueprint
        for what, one, other in (
            ("observations", told(own.observation), told(data.observation)),
            ("actions", told(own.action), told(data.action)),
        ):
            if one != other:
                raise UserError(
                    f"{name} has other {what} ({other}) than {self.checkpoint.path} was trained on ({one}); give a "
                    "recording of the same, or train a new model."
                )
        observation, action = data.observation, data.action
        if self.words is not None:
            # Texts may get longer, and never shorter than those that it can write already.
            longest = max(own.observation.shape[0], observation.shape[0])
            observation = replace(observation, shape=(longest,))
            action = replace(action, size=max(own.action.size, action.size))
        return replace(data, observation=observation, action=action, statistics=self.statistics(action))

    def statistics(self, action: ActionSpec) -> Statistics:
        """What its weights take for 0 and 1. Words have no scale, and of those there may be more in an action now."""
        part = {name: tensor.float().numpy() for name, tensor in self.checkpoint.part("ema").items()}
        return Statistics(
            observation_mean=part["observation_mean"],
            observation_std=part["observation_std"],
            observation_changes=part["observation_changes"] > 0,
            action_mean=part["action_mean"] if self.words is None else np.zeros(action.stored_size, np.float32),
            action_std=part["action_std"] if self.words is None else np.ones(action.stored_size, np.float32),
            # Checkpoints from before heads knew units have neither.
            reward_mean=float(part.get("reward_head.mean", 0.0)),
            reward_std=float(part.get("reward_head.std", 1.0)),
        )

    def give(self, model: WorldModel) -> None:
        """Load the weights into a new model of the spaces that `carried_on` gave."""
        own = {name: model.state_dict()[name] for name in ("action_mean", "action_std")}
        neutral = {f"ema.{name}": tensor for name, tensor in own.items()} if self.words is not None else {}
        replace(self.checkpoint, tensors=self.checkpoint.tensors | neutral).restore(model, "ema")


def told(space: ObservationSpec | ActionSpec) -> str:
    """What two recordings must have in common for one model, in words."""
    if space.kind == "text":
        return "texts"
    if isinstance(space, ActionSpec):
        return f"{space.kind}, {space.choices or space.size}"
    return f"{space.kind} {space.shape} of {', '.join(space.names)}"
