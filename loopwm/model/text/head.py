"""D of text worlds: the next observation, word by word, read from a latent, and copied where that is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.config import ModelConfig, TextConfig
from loopwm.model.text.encoders import BEGIN, END, NOMINAL_WORDS, PAD, Memory, weights
from loopwm.model.text.layers import FeedForward, WordAttention, angles
from loopwm.model.text.naming import NAMES, first_named
from loopwm.model.text.packing import Group, Layout, Texts, flattened, pairs
from loopwm.spaces import ObservationSpec

_MOST = 1 - 1e-6
"""Of the probability may be copied."""
STEPS = 64.0
"""Steps back within which a decoder tells observations apart by their age."""


class DecoderBlock(nn.Module):
    """Words read the words before them, then the latent, then themselves."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_words, self.norm_latent = nn.RMSNorm(width), nn.RMSNorm(width)
        self.words, self.latent = WordAttention(width, heads), WordAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, layout: Layout, turn: Tensor, latents: Tensor) -> Tensor:
        """x (M, D) -> (M, D); latents (T, N, D), of every text."""
        x = x + self.words.among(self.norm_words(x), layout, turn, causal=True)
        x = x + self.latent.across(self.norm_latent(x), layout, latents)
        return self.mlp(x)


class LookingBack(nn.Module):
    """Words read the words that were seen, up to their own step."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.read = WordAttention(width, heads)
        self.mlp = FeedForward(width, hidden)


_MISMATCH = 0.5
"""What an agreement further back still counts after each word that differs."""
_CELLS = 2**17
"""Pairs of words that are compared at once, few enough to stay in a processor's cache."""


def agreement(written: Tensor, remembered: Tensor) -> Tensor:
    """How far what stands before a word agrees with what stands before remembered ones: (R, L, C), from 0 to F.

    An agreement counts half as much for every word nearer by that differs, so that a list is followed beyond what
    changed in it.

    Args:
        written: (R, L, F), words before each place, nearest first; 0 is none. remembered: (R, C, F).
    """
    rows, length, _ = written.shape
    total = torch.empty(rows, length, remembered.shape[1], device=written.device)
    # Furthest first, word by word; what is not there is like nothing.
    words = torch.where(written == 0, -1, written).int().movedim(-1, 0).flip(0)
    others = remembered.int().movedim(-1, 0).flip(0)
    step = max(1, _CELLS // max(1, rows * remembered.shape[1]))
    for begin in range(0, length, step):
        part = torch.zeros_like(total[:, begin : begin + step])
        for word, other in zip(words[:, :, begin : begin + step, None], others[:, :, None], strict=True):
            part = torch.where(word == other, part + 1.0, _MISMATCH * part)
        total[:, begin : begin + step] = part
    return total


def headed_alike(heading: Tensor, remembered: Tensor) -> Tensor:
    """Whether the parts that remembered words are from begin as texts do: (R, T, C).

    Args:
        heading: (R, T, P), 0 is none. remembered: (R, C, P).
    """
    alike = (heading != 0).all(-1)[:, :, None].repeat(1, 1, remembered.shape[1])
    for word, other in zip(heading.int().unbind(-1), remembered.int().unbind(-1), strict=True):
        alike &= word[:, :, None] == other[:, None, :]
    return alike


class Pointer(nn.Module):
    """Which of the words that were seen to repeat, and whether to.

    Source: arXiv 1704.04368, Eq. 8-9; that copying goes on where it is, as in arXiv 1603.06393, Section 3.3.
    """

    def __init__(self, width: int, config: TextConfig) -> None:
        super().__init__()
        self.reach, self.heading = config.follow, config.heading
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.nothing = nn.Parameter(torch.zeros(1))
        self.copy = nn.Linear(width, 1)
        if self.reach:
            self.follow = positive(width, 1.0)
        self.forget = positive(width, 1.0) if config.recency else None
        self.trust = unlearned(width, 2) if config.trust else None
        self.touched = unlearned(width, len(NAMES)) if config.touched else None
        # About as much as agrees, at most, with another room than the one that is written about.
        self.belong = positive(width, 10.0) if self.heading else None

    def queries(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return functional.normalize(self.query(x).float(), dim=-1) * self.sharpness

    def keys(self, states: Tensor) -> Tensor:
        """Of remembered words (..., D)."""
        return functional.normalize(self.key(states).float(), dim=-1)

    def follows(self, x: Tensor) -> Tensor:
        """What an agreement counts at states x (..., D): (..., 1); 1 in the beginning."""
        return functional.softplus(self.follow(x).float()) if self.reach else x[..., :1].float()

    def preference(self, x: Tensor, agreed: Tensor, alike: Tensor, age: Tensor, named: Sequence[Tensor]) -> Tensor:
        """Of states x (R, L, D) for what agrees with what was written, for parts that begin `alike`, for what is `age`
        steps old, and for what actions have `named` since in each of the ways, all (R, L or 1, C): (R, L, C)."""
        preferred = self.follows(x) * agreed
        if self.touched is not None:
            for counts, is_named in zip(self.touched(x).float().split(1, dim=-1), named, strict=True):
                preferred = preferred + counts * is_named
        if self.belong is not None:
            preferred = preferred + functional.softplus(self.belong(x).float()) * alike
        if self.forget is None:
            return preferred
        return preferred - functional.softplus(self.forget(x).float()) * age.float().log1p()

    def share(self, x: Tensor, best: Tensor, most: Tensor) -> Tensor:
        """How much of the probability at states x (..., D) may be copied: (..., 1).

        States tell what usually comes here. Whether it was seen, they hardly know; how far it agrees, does.

        Args:
            best: (..., 1), the furthest agreement with anything that may be read. most: (..., 1), if all words agreed.
        """
        logit = self.copy(x).float()
        if self.trust is not None:
            agrees, differs = self.trust(x).float().split(1, dim=-1)
            logit = logit + agrees * best.log1p() - differs * (most - best).log1p()
        return logit.sigmoid()

    def weights(self, q: Tensor, k: Tensor, readable: Tensor, preferred: Tensor) -> Tensor:
        """Attention (R, L, C) of q (R, L, D) to k (R, C, D), and to what is `preferred` (R, L, C); what is missing to 1
        points at nothing."""
        scores = (q @ k.transpose(1, 2) + preferred).masked_fill(~readable, -torch.inf)
        return torch.cat([self.nothing.expand(*scores.shape[:-1], 1), scores], -1).softmax(-1)[..., 1:]


def unlearned(width: int, many: int) -> nn.Linear:
    """So many numbers for every state, all 0 before anything is learned."""
    layer = nn.Linear(width, many)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def positive(width: int, at_first: float) -> nn.Linear:
    """A number for every state, whose softplus is `at_first` before anything is learned."""
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, math.log(math.expm1(at_first)))
    return layer


class TextHead(nn.Module):
    """An autoregressive decoder. `bottleneck` reads h_k alone; `copy` also reads the words that were seen, and may
    repeat one of them instead of choosing from the vocabulary."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        width, self.copies = config.width, config.text.head == "copy"
        self.longest, self.rotated = spec.shape[0], width // config.heads // 2
        self.words = nn.Embedding(len(spec.names), width)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        # Padding is never written.
        self.never: Tensor
        self.register_buffer("never", torch.zeros(len(spec.names)), persistent=False)
        self.never[PAD] = -torch.inf
        self.places = nn.Parameter(torch.randn(config.tokens, width) / width**0.5)
        sizes = width, config.heads, config.hidden
        self.blocks = nn.ModuleList(DecoderBlock(*sizes) for _ in range(config.text.decoder))
        self.norm = nn.RMSNorm(width)
        if self.copies:
            self.back, self.pointer = LookingBack(*sizes), Pointer(width, config.text)

    @property
    def layers(self) -> list[DecoderBlock]:
        """The blocks, as what they are. A head that copies looks back before the last of them."""
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

    def scores(self, x: Tensor) -> Tensor:
        """Of every word of the vocabulary at states x (..., D): (..., V), before softmax."""
        return functional.linear(x, self.words.weight, self.never.to(x.dtype)).float()

    def log_likelihood(self, latents: Tensor, targets: Tensor, memory: Memory, valid: Tensor) -> Targets:
        """How likely the words of `targets` are, each given those before it.

        Args:
            latents: (B, K, N, D), h_k. targets: (B, K, L), o_{k+1}. valid: (B, K), which of them exist.
        """
        targets = functional.pad(targets.long(), (0, 1))
        ends = targets.scatter(-1, (targets != 0).sum(-1, keepdim=True), END)
        texts = flattened(ends, (ends != 0) & (valid > 0)[..., None])
        first = texts.place == 0
        given = torch.where(first, BEGIN, texts.tokens.roll(1))
        look = Look.of(texts, memory) if self.copies else None
        x, turn = self.words(given), angles(texts.place, self.rotated)
        y = (latents + self.places).flatten(0, 1)
        for i, block in enumerate(self.layers):
            if look is not None and i == len(self.blocks) - 1:
                x = self._looked_back(x, look, texts, memory)
            x = block(x, texts.layout, turn, y)
        return Targets(self._chosen(self.norm(x), texts, look, memory), texts, targets.shape[1])

    def _looked_back(self, x: Tensor, look: Look, texts: Texts, memory: Memory) -> Tensor:
        back = self.back
        if not look.groups:
            return back.mlp(x)
        q = back.read.queries(back.norm(x), angles(texts.step, self.rotated, STEPS))
        k, v = back.read.keys(memory.states, angles(memory.step, self.rotated, STEPS))
        found = [
            back.read.attend(q[here.index], k[there.index], v[there.index], readable)
            for here, there, readable in look.groups
        ]
        return back.mlp(x + back.read.out(look.words(found, x)))

    def _chosen(self, x: Tensor, texts: Texts, look: Look | None, memory: Memory) -> Tensor:
        """Log-probabilities (M,) of the words themselves at states x (M, D)."""
        own = -functional.cross_entropy(self.scores(x), texts.tokens, reduction="none")
        if look is None:
            return own
        before = texts.before(self.pointer.reach, BEGIN)
        copied = pointed = best = torch.zeros_like(own)
        if look.groups:
            q, k = self.pointer.queries(x), self.pointer.keys(memory.states)
            named = first_named(memory) if self.pointer.touched is not None else memory.tokens[:, None][:, :0]
            found = []
            for here, there, readable in look.groups:
                agreed = agreement(before[here.index], memory.before[there.index])
                age = (texts.step[here.index][:, :, None] - memory.step[there.index][:, None, :]).clamp(min=0)
                alike = self._headed_alike(texts, here, memory.heading[there.index])
                touched = [texts.step[here.index][:, :, None] >= one[:, None] for one in named[there.index].unbind(-1)]
                preferred = self.pointer.preference(x[here.index], agreed, alike, age, touched)
                weights = self.pointer.weights(q[here.index], k[there.index], readable, preferred)
                same = memory.tokens[there.index][:, None, :] == texts.tokens[here.index][:, :, None]
                furthest = agreed.masked_fill(~readable, 0.0).amax(-1)
                found.append(torch.stack([(weights * same).sum(-1), weights.sum(-1), furthest], -1))
            copied, pointed, best = look.words(found, own).unbind(-1)
        share = self.pointer.share(x, best[:, None], (before != 0).sum(-1, keepdim=True))[:, 0]
        # What points at nothing is left to the vocabulary, so that all words together have probability 1.
        return torch.logaddexp(torch.log1p(-_MOST * share * pointed) + own, (share * copied + 1e-9).log())

    def _headed_alike(self, texts: Texts, here: Group, remembered: Tensor) -> Tensor:
        """Whether `remembered` headings (R, C, P) are those of the words `here`, once these are written: (R, L, C)."""
        many = self.pointer.heading
        if not many:
            return remembered.new_zeros(1, 1, 1)
        # Words of a text have the same heading: compared once for every text, of which there are few.
        heads = texts.tokens.new_zeros(len(texts.layout.length), many)
        heads[texts.text] = texts.heading(many)
        found = headed_alike(heads.view(-1, texts.count, many)[here.rows], remembered)
        known = (texts.place[here.index] >= many)[..., None]
        return found.gather(1, texts.step[here.index][..., None].expand(-1, -1, found.shape[-1])) & known

    def flops(self, words: int = NOMINAL_WORDS) -> int:
        """Operations of writing so many words, without what depends on how much was seen."""
        width = self.words.embedding_dim
        linear = sum(weights(block) for block in self.blocks) + self.words.weight.numel()
        return 2 * words * (linear + len(self.blocks) * 2 * width * (words // 2 + len(self.places)))


@dataclass(frozen=True)
class Look:
    """Which words may look back at which: groups of windows (words here, words remembered there, (R, L, C) allowed)."""

    groups: tuple[tuple[Group, Group, Tensor], ...]
    total: int

    @classmethod
    def of(cls, texts: Texts, memory: Memory) -> Look:
        """Of target texts; a word of step k may read all that was seen up to o_k."""
        rows = pairs(texts.window, memory.window)
        here, there = Layout.of(texts.window, rows).groups, Layout.of(memory.window, rows).groups
        groups = []
        for a, b in zip(here, there, strict=True):
            allowed = memory.step[b.index][:, None, :] <= texts.step[a.index][:, :, None]
            groups.append((a, b, allowed & b.valid[:, None, :]))
        return cls(tuple(groups), len(texts.tokens))

    def words(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """(R, L, ...) of every group -> (M, ...); 0 for the words of windows that saw nothing."""
        index = torch.cat([here.index[here.valid] for here, _, _ in self.groups])
        values = torch.cat([part[here.valid] for part, (here, _, _) in zip(parts, self.groups, strict=True)])
        return values.new_zeros(self.total, *values.shape[1:]).index_copy(0, index, values)


@dataclass(frozen=True)
class Targets:
    """Log-probabilities (M,) of target words, K = `count` texts a window."""

    log_probability: Tensor
    texts: Texts
    count: int

    def per_text(self) -> Tensor:
        """(B, K): the sum over the words of every text; 0 where there is none."""
        size = len(self.texts.window) * self.count
        total = self.log_probability.new_zeros(size).index_add(0, self.texts.text, self.log_probability)
        return total.view(-1, self.count)
