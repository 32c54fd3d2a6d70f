"""Eq. 10 and 19 where observations are texts: the words of o_{k+1} are written from h_k, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from loopwm.data.windows import Windows
from loopwm.model.config import ExitConfig
from loopwm.model.text.encoders import Memory, TextActionEncoder, TextEncoder
from loopwm.model.text.head import Targets, TextHead
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.text.corpus import VALID
from loopwm.train.config import LossConfig
from loopwm.train.deferred import budget, drift, embeddings
from loopwm.train.losses import LossTerms, task_errors, visible_steps


@dataclass(frozen=True)
class Unrolled:
    """Latents (B, K, N, D) of windows, and the words that were seen and done on the way."""

    latents: Tensor
    memory: Memory


def unrolled(
    model: WorldModel,
    windows: Windows,
    visible: Tensor,
    num_loops: Tensor | int | None = None,
    exit: ExitConfig | None = None,
    trace: Trace | None = None,
) -> Unrolled:
    """h_0 ... h_{K-1} of windows of which the observations `visible` (B, K) are seen. What was before a window is
    remembered, and not part of its latents."""
    assert isinstance(model.encoder, TextEncoder) and isinstance(model.action_encoder, TextActionEncoder)
    past, done = windows.past, windows.actions
    shown = functional.pad(visible, (past, 0), value=True)
    seen = windows.observations[:, :-1] * shown[..., None].to(windows.observations)
    causes = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1]], 1)
    e, read = model.encoder.window(seen, causes, past)
    u, said = model.action_encoder.window(done, past)
    e = e * visible[..., None, None].to(e)
    h, latents = model.initial(len(done)), []
    for k in range(u.shape[1]):
        h = model.advance(h, u[:, k], e[:, k], num_loops=num_loops, exit=exit, trace=trace)
        latents.append(h)
    return Unrolled(torch.stack(latents, 1), read.and_also(said))


class TextDecoding:
    """Every latent is decoded, or only the last of a window, as `loss.decoding` says."""

    def __init__(self, config: LossConfig, reward_std: float) -> None:
        self.config, self.reward_std = config, reward_std
        self._memory: Memory | None = None

    def unroll(
        self, model: WorldModel, windows: Windows, num_loops: Tensor | int | None, draws: torch.Generator
    ) -> Tensor:
        """With the observations in view that `visible_steps` draws, or with o_0 and the past alone."""
        config, (batch, window) = self.config, windows.rewards.shape
        if config.imagined or config.decoding == "deferred":
            visible = (torch.arange(window) < 1).expand(batch, -1)
        else:
            visible = visible_steps(batch, window, config.observed, draws, config.shown)
        found = unrolled(model, windows, visible.to(windows.rewards.device), num_loops)
        self._memory = found.memory
        return found.latents

    def terms(self, model: WorldModel, windows: Windows, latents: Tensor) -> LossTerms:
        """`observation` is the mean negative log-likelihood of a word."""
        config, valid = self.config, windows.labels[VALID]
        scored = ends(valid) if config.decoding == "deferred" else valid
        # Not kept longer: it holds the graph of the whole update.
        memory, self._memory = self._memory, None
        assert memory is not None
        targets = written(model, windows, Unrolled(latents, memory), scored)
        observation = -targets.log_probability.mean()
        errors = task_errors(model, latents, windows.rewards, windows.continues, self.reward_std)
        reward, continues = (mean(error, scored > 0) for error in errors)
        total = observation + config.reward * reward + config.continues * continues
        terms = LossTerms(total, observation, reward, continues)
        return self._deferred(model, windows, latents, terms) if config.decoding == "deferred" else terms

    def _deferred(self, model: WorldModel, windows: Windows, latents: Tensor, terms: LossTerms) -> LossTerms:
        """With the terms of Eq. 20-21, of what comes before the ends of windows."""
        deferred, on_the_way = self.config.deferred, windows.labels[VALID][:, 1:]
        moves = drift(latents) * on_the_way
        further = {
            "budget": budget(moves, deferred.cmax, on_the_way.sum(1)),
            "drift": mean(moves.detach(), on_the_way),
        }
        total = terms.total + deferred.beta * further["budget"]
        if deferred.alpha:
            target = embeddings(model, windows.observations[:, windows.past + 1 :])[:, :-1]
            apart = (model.summary(latents[:, :-1]) - target).square().mean((-2, -1))
            further["consistency"] = mean(apart, on_the_way)
            total = total + deferred.alpha * further["consistency"]
        return replace(terms, total=total, further=further)


def written(model: WorldModel, windows: Windows, found: Unrolled, valid: Tensor) -> Targets:
    """Log-probabilities of the words of o_1 ... o_K."""
    head = model.observation_head
    assert isinstance(head, TextHead)
    past = windows.past
    return head.log_likelihood(found.latents, windows.observations[:, past + 1 :], found.memory, valid, past)


def mean(values: Tensor, where: Tensor) -> Tensor:
    """Of `values` where `where`, of the same shape, holds."""
    return (values * where).sum() / where.sum().clamp(min=1)


def ends(valid: Tensor) -> Tensor:
    """(B, K): 1 at the last transition of every window that exists."""
    return valid - functional.pad(valid[:, 1:], (0, 1))


@torch.no_grad()
def validate_text(
    model: WorldModel, windows: Windows, device: torch.device, exit: ExitConfig | None = None, batch: int = 32
) -> dict[str, float]:
    """Mean negative log-likelihood of a word, with every observation seen (`one_step`) or o_0 and the past
    (`open_loop`); and the share of texts all of whose words are likelier than not (`one_step_sure`, `open_loop_sure`).

    A text all of whose words have more than half of the probability is what greedy decoding would write, so the shares
    are lower bounds of exact matches. With an exit also mean loops, `one_step_loops` and `open_loop_loops`.
    """
    found: dict[str, float] = {}
    length = windows.rewards.shape[1]
    views = {"one_step": torch.ones(length, dtype=torch.bool), "open_loop": torch.arange(length) < 1}
    for name, view in views.items():
        losses, words, sure, texts, loops = 0.0, 0, 0, 0, 0.0
        for first in range(0, len(windows), batch):
            part = windows[first : first + batch].to(device)
            trace = None if exit is None else Trace(residuals=False)
            latents = unrolled(model, part, view.expand(len(part), -1).to(device), exit=exit, trace=trace)
            targets = written(model, part, latents, part.labels[VALID])
            losses -= float(targets.log_probability.sum())
            words += len(targets.log_probability)
            count = part.labels[VALID].bool()
            unsure = (targets.log_probability < math.log(0.5)).float()
            doubtful = replace(targets, log_probability=unsure).per_text()
            sure += int(((doubtful == 0) & count).sum())
            texts += int(count.sum())
            loops += 0.0 if trace is None else float((trace.loops.to(device) * count).sum())
        found |= {name: losses / max(words, 1), f"{name}_sure": sure / max(texts, 1)}
        found |= {} if exit is None else {f"{name}_loops": loops / max(texts, 1)}
    return found
