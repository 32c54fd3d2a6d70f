"""What a run is trained on, whatever kind of recording it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loopwm.data.cache import Columns, open_memmap
from loopwm.data.statistics import Statistics, compute_statistics
from loopwm.data.store import Store
from loopwm.data.windows import Sampler, Windows, WindowSampler, all_windows
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec

if TYPE_CHECKING:
    from loopwm.presets import RunConfig

_VALIDATION_IMAGES = 64
"""Windows of images that are looked at for validation."""
_VALIDATION_TEXTS = 64
"""Windows of texts."""
_VALIDATION_LENGTH = 10
"""Transitions of a window of numbers that is looked at, where episodes are as long."""


@dataclass(frozen=True)
class TrainingData:
    """A recording, ready to be trained on.

    Attributes:
        sampler: of the training episodes. validation: windows of the validation episodes.
        columns: of a store; None for texts. validation_episodes: indices into it.
    """

    digest: str
    observation: ObservationSpec
    action: ActionSpec
    statistics: Statistics
    sampler: Sampler
    validation: Windows
    columns: Columns | None
    validation_episodes: np.ndarray


def training_data(config: RunConfig, words: tuple[str, ...] | None = None) -> TrainingData:
    """What `config.data` holds.

    Args:
        words: the vocabulary of texts; that of the training episodes when None.

    Raises:
        UserError: it cannot be read, or not be trained on in this way.
    """
    from loopwm.text.recording import is_recording

    found = _texts(config, words) if is_recording(config.data) else _numbers(config)
    if config.train.shift and found.observation.kind != "image":
        raise UserError(
            f"train.shift moves images, and {config.data} holds observations of kind '{found.observation.kind}'; leave "
            "it at 0."
        )
    for option in ("initial", "spell", "rename", "balance", "changes"):
        if getattr(config.train, option) and found.observation.kind != "text":
            raise UserError(f"train.{option} is for texts, and {config.data} holds none; leave it at 0.")
    # Windows may grow during training; that the longest fits is known before it starts.
    found.sampler.ends(config.train.window)
    return found


def _numbers(config: RunConfig) -> TrainingData:
    with Store.open(config.data) as store:
        digest, columns = store.digest, open_memmap(store)
        train, validation = store.split("train"), store.split("validation")
        observation, action = store.meta.observation, store.meta.action
    _refuse_missing_split(config.data, train, validation)
    statistics = compute_statistics(columns, train)
    if not statistics.observation_changes.any():
        raise UserError(
            f"In the training episodes of {config.data} no feature of the observation ever changes, so there is "
            "nothing to learn; record another world."
        )
    sampler = WindowSampler(columns, train, config.train.seed)
    sampler.ends(config.train.window)
    # Of images, which are large, a sample has to do.
    most = _VALIDATION_IMAGES if observation.kind == "image" else None
    length = min(_VALIDATION_LENGTH, int(columns.ep_len[validation].max()))
    windows = all_windows(columns, validation, length=length, stride=length, most=most)
    return TrainingData(digest, observation, action, statistics, sampler, windows, columns, validation)


def _texts(config: RunConfig, words: tuple[str, ...] | None) -> TrainingData:
    from loopwm.text.corpus import TextCorpus
    from loopwm.text.sampling import TextSampler
    from loopwm.text.vocabulary import Vocabulary

    refuse_for_texts(config)
    corpus = TextCorpus.read(config.data, None if words is None else Vocabulary(words))
    train, validation = corpus.split("train"), corpus.split("validation")
    _refuse_missing_split(config.data, train, validation)
    # The same windows whatever the seed of the run, so that runs can be compared.
    settings = config.train
    sampler = TextSampler(
        corpus,
        train,
        settings.seed,
        settings.initial,
        settings.spell,
        settings.balance,
        settings.changes,
        settings.rename,
    )
    sampler.refuse_unchanging(settings.window)
    looked_at = TextSampler(corpus, validation, 0, settings.initial, balance=settings.balance)
    windows = looked_at.draw(0, _VALIDATION_TEXTS, settings.window)
    return TrainingData(
        digest=corpus.manifest.digest,
        observation=corpus.observation,
        action=corpus.action,
        statistics=corpus.statistics(train),
        sampler=sampler,
        validation=windows,
        columns=None,
        validation_episodes=validation,
    )


def _refuse_missing_split(path: Path, train: np.ndarray, validation: np.ndarray) -> None:
    if not len(train) or not len(validation):
        raise UserError(
            f"{path} has {len(train)} training and {len(validation)} validation episodes, and both are needed; record "
            "more episodes."
        )


def refuse_for_texts(config: RunConfig) -> None:
    """Raise UserError where a configuration asks for what there is only of numbers."""
    if config.loss.objective == "embed":
        raise UserError("loss.objective 'embed' is for numbers and images; of texts, leave it at 'decode'.")
    if config.halt.mode != "off":
        raise UserError("halt.mode trains gates on worlds of numbers and images; of texts, leave it 'off'.")
