"""What the benchmark asks of a system, and what it keeps of its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loopwm.errors import LoopwmError
from loopwm.text.benchmark.metrics import METRICS, Scorer
from loopwm.text.benchmark.windows import Window


class Predictor(Protocol):
    """Anything that answers windows: rules, a trained model, a prompted one."""

    def predict(self, windows: Sequence[Window]) -> list[list[str]]:
        """For each window its K observations, from its `context` and its `actions` alone."""
        ...


@dataclass(frozen=True)
class Scored:
    """The answers of one system.

    Attributes:
        name: of the system.
        predictions: K texts for each of n windows.
        scores: (n, K, M), M = len(METRICS).
    """

    name: str
    predictions: list[list[str]]
    scores: npt.NDArray[np.float64]

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        """Scores (n, K) of one metric."""
        return self.scores[:, :, METRICS.index(name)]


def score(name: str, predictor: Predictor, windows: Sequence[Window], scorer: Scorer) -> Scored:
    """Ask a system about windows, and compare its answers with the targets.

    Raises:
        LoopwmError: the system gave another number of answers than there are windows or steps.
    """
    predictions = predictor.predict(windows)
    if [len(texts) for texts in predictions] != [len(window.targets) for window in windows]:
        raise LoopwmError(f"The system '{name}' did not give one answer for each step of the {len(windows)} windows.")
    return Scored(name, predictions, scorer.table(predictions, [window.targets for window in windows]))


def windows_digest(windows: Sequence[Window]) -> str:
    """32 hexadecimal digits that change with any question or answer: equal digests are the same frozen sample."""
    digest = hashlib.blake2b(digest_size=16)
    for window in windows:
        context = window.context
        words = (context.description, context.initial, context.observations, context.actions)
        digest.update(json.dumps([window.game, window.time, words, window.actions, window.targets]).encode())
    return digest.hexdigest()
