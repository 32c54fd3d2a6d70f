"""A model's predictions on recorded segments: step by step with the truth in view, and with eyes shut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from loopwm.evaluate.controls import Control
from loopwm.evaluate.scores import Array, Scorer
from loopwm.evaluate.segments import Segments, rows_at_once
from loopwm.model.config import ExitConfig
from loopwm.model.heads import Prediction
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class StepErrors:
    """Errors per transition of segments, all (B, K), NaN where the episode was over.

    Attributes:
        observation: normalised mean squared error.
        groups: name -> mean squared error per coordinate in environment units squared.
        reward: squared error.
        continue_probability: predicted probability that the episode goes on.
        loops: loops made; NaN also for a control.
        nonfinite: predicted numbers that are NaN or infinite, among the transitions that count.
    """

    observation: Array
    groups: dict[str, Array]
    reward: Array
    continue_probability: Array
    loops: Array
    nonfinite: int


def one_step(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None = None,
    *,
    batch: int | None = None,
    trace: Trace | None = None,
    exit: ExitConfig | None = None,
    scorer: Scorer | None = None,
) -> StepErrors:
    """Errors with every true observation in view: o_{k+1} predicted from o_0..o_k and a_0..a_k.

    Over long segments this is the observation-encoder floor of `open_loop`: the error of a rollout that never drifts.

    Args:
        num_loops: T; the model's default when None.
        batch: segments per forward pass; bounds memory and changes nothing else. As `rows_at_once` says when None.
        trace: collects loops and residuals; needs all segments to fit one batch.
        exit: lets a transition stop before T.
        scorer: units and features of the errors; the model's own when None.
    """
    batch = batch or rows_at_once(model.observation, segments.length)
    if trace is not None and len(segments) > batch:
        raise ValueError(f"A trace covers one batch; {len(segments)} segments were given and batch={batch}.")
    return _errors(model, segments, num_loops, batch, exit, scorer, blind=False, trace=trace)


def open_loop(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None = None,
    *,
    batch: int | None = None,
    exit: ExitConfig | None = None,
    scorer: Scorer | None = None,
) -> StepErrors:
    """Errors with only o_0 in view: o_{k+1} imagined from o_0 and a_0..a_k. Arguments as in `one_step`.

    With a warm-up, the observations of those transitions are in view as well; their errors are NaN.
    """
    batch = batch or rows_at_once(model.observation, segments.length)
    return _errors(model, segments, num_loops, batch, exit, scorer, blind=True, trace=None)


def control_errors(control: Control, segments: Segments, scorer: Scorer) -> StepErrors:
    """Open-loop errors of a control, which predicts observations only; reward and continue are NaN."""
    parts, batch = [], rows_at_once(scorer.spec, segments.length, len(segments))
    for first in range(0, len(segments), batch):
        part = segments.rows(slice(first, first + batch))
        ahead, nothing = part.ahead, np.full(part.ahead.valid.shape, np.nan)
        predicted = control.predict(_in_view(control, part, part.warmup), ahead.actions)
        parts.append(_score(scorer, ahead, predicted, nothing, nothing, nothing))
    return _joined(parts, segments.warmup)


def control_single(control: Control, segments: Segments, scorer: Scorer) -> Array:
    """One-step errors (n,) of a control on every valid transition, in the order of `values[valid]`."""
    errors = np.full(segments.valid.shape, np.nan)
    for k in range(segments.warmup, segments.length):
        rows = np.flatnonzero(segments.valid[:, k])
        batch = rows_at_once(scorer.spec, 1, max(1, len(rows)))
        for first in range(0, len(rows), batch):
            part = segments.rows(rows[first : first + batch])
            predicted = control.predict(_in_view(control, part, k), part.actions[:, k : k + 1])[:, 0]
            errors[rows[first : first + batch], k] = scorer.normalised_error(predicted, part.observations[:, k + 1])
    return errors[segments.valid]


def _in_view(control: Control, segments: Segments, k: int) -> Array:
    """What a control looks at before transition k: o_k (B, *S), or the several observations up to it."""
    several = getattr(control, "images", 1)
    return segments.observations[:, k] if several == 1 else segments.observations[:, k + 1 - several : k + 1]


def imagined_observations(
    model: WorldModel, segments: Segments, num_loops: int | None = None, exit: ExitConfig | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Open-loop predictions of o_1..o_K, (B, K, *S) in environment units, and the loops (B, K) spent on each.

    A warm-up is watched and not part of the result.
    """
    trace = Trace(residuals=False)
    observation = _predict(model, segments, num_loops, exit, blind=True, trace=trace).observation
    return observation.cpu().double().numpy(), trace.loops.numpy()


def _errors(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None,
    batch: int,
    exit: ExitConfig | None,
    scorer: Scorer | None,
    blind: bool,
    trace: Trace | None,
) -> StepErrors:
    scorer, parts = scorer or Scorer.of(model), []
    for first in range(0, len(segments), batch):
        part = segments.rows(slice(first, first + batch))
        scored = part.ahead if blind else part
        # Without an exit every transition makes the loops asked for.
        watched = Trace(residuals=False) if trace is None and exit is not None else trace
        prediction = _predict(model, part, num_loops, exit, blind, watched)
        loops = torch.full(scored.valid.shape, num_loops or model.default_loops) if watched is None else watched.loops
        arrays = (prediction.observation, prediction.reward, prediction.continue_probability, loops)
        parts.append(_score(scorer, scored, *(array.cpu().double().numpy() for array in arrays)))
    return _joined(parts, segments.warmup if blind else 0)


def _joined(parts: list[StepErrors], warmup: int) -> StepErrors:
    """Batches one after the other, with NaN for the transitions of a warm-up in front."""

    def rows(pick: Callable[[StepErrors], Array]) -> Array:
        return np.pad(np.concatenate([pick(part) for part in parts]), ((0, 0), (warmup, 0)), constant_values=np.nan)

    return StepErrors(
        observation=rows(lambda part: part.observation),
        groups={name: rows(lambda part, name=name: part.groups[name]) for name in parts[0].groups},
        reward=rows(lambda part: part.reward),
        continue_probability=rows(lambda part: part.continue_probability),
        loops=rows(lambda part: part.loops),
        nonfinite=sum(part.nonfinite for part in parts),
    )


def _predict(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None,
    exit: ExitConfig | None,
    blind: bool,
    trace: Trace | None,
) -> Prediction:
    observations, actions = (
        torch.as_tensor(array, device=model.device) for array in (segments.observations[:, :-1], segments.actions)
    )
    with torch.inference_mode():
        if blind:
            begin, h = segments.warmup, None
            if begin:
                h = model.observe(observations[:, :begin], actions[:, :begin], num_loops=num_loops, exit=exit)[:, -1]
            latents = model.imagine(
                actions[:, begin:], observation=observations[:, begin], h=h, num_loops=num_loops, exit=exit, trace=trace
            )
        else:
            latents = model.observe(observations, actions, num_loops=num_loops, exit=exit, trace=trace)
        return model.decode(latents)


def _score(
    scorer: Scorer, segments: Segments, observation: Array, reward: Array, probability: Array, loops: Array
) -> StepErrors:
    target = segments.observations[:, 1:]
    finite = np.isfinite(observation[segments.valid])
    return StepErrors(
        observation=segments.masked(scorer.normalised_error(observation, target)),
        groups={name: segments.masked(scorer.group_error(observation, target, name)) for name in scorer.groups},
        reward=segments.masked((reward - segments.rewards) ** 2),
        continue_probability=segments.masked(probability),
        loops=segments.masked(loops),
        nonfinite=int(finite.size - finite.sum()),
    )
