"""D of text worlds: the next observation, word by word, read from a latent, and copied where that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.config import ModelConfig
from loopwm.model.text.encoders import BEGIN, END, NOMINAL_WORDS, PAD, Memory, weights
from loopwm.model.text.layers import FeedForward, WordAttention, angles
from loopwm.model.text.naming import first_named, named_by
from loopwm.model.text.packing import Group, Layout, Texts, flattened, pairs
from loopwm.model.text.pointer import Expectation, Pointer, Signs, agreement, headed_alike
from loopwm.spaces import ObservationSpec

MOST = 1 - 1e-6
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
        self.expectation = Expectation(width, config.text) if self.copies and config.text.expect else None

    @property
    def layers(self) -> list[DecoderBlock]:
        """The blocks, as what they are. A head that copies looks back before the last of them."""
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

    def scores(self, x: Tensor) -> Tensor:
        """Of every word of the vocabulary at states x (..., D): (..., V), before softmax."""
        return functional.linear(x, self.words.weight, self.never.to(x.dtype)).float()

    def log_likelihood(
        self, latents: Tensor, targets: Tensor, memory: Memory, valid: Tensor, first: int = 0
    ) -> Targets:
        """How likely the words of `targets` are, each given those before it.

        Args:
            latents: (B, K, N, D), h_k. targets: (B, K, L), o_{k+1}. valid: (B, K), which of them exist.
            first: the step of the first of them, as the memory counts.
        """
        targets = functional.pad(targets.long(), (0, 1))
        ends = targets.scatter(-1, (targets != 0).sum(-1, keepdim=True), END)
        texts = flattened(ends, (ends != 0) & (valid > 0)[..., None])
        given = torch.where(texts.place == 0, BEGIN, texts.tokens.roll(1))
        look = Look.of(texts, memory, self.pointer, first) if self.copies else None
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
        if self.expectation is not None:
            told = [self.expectation(memory.states[there.index], signs) for _, there, signs in look.groups]
            x = x + look.words(told, x)
        q = back.read.queries(back.norm(x), angles(texts.step + look.first, self.rotated, STEPS))
        k, v = back.read.keys(memory.states, angles(memory.step, self.rotated, STEPS))
        found = [
            back.read.attend(q[here.index], k[there.index], v[there.index], signs.readable)
            for here, there, signs in look.groups
        ]
        return back.mlp(x + back.read.out(look.words(found, x)))

    def _chosen(self, x: Tensor, texts: Texts, look: Look | None, memory: Memory) -> Tensor:
        """Log-probabilities (M,) of the words themselves at states x (M, D)."""
        own = -functional.cross_entropy(self.scores(x), texts.tokens, reduction="none")
        if look is None:
            return own
        copied = pointed = best = torch.zeros_like(own)
        if look.groups:
            k, found = self.pointer.keys(memory.states), []
            for here, there, signs in look.groups:
                weights = self.pointer.weights(x[here.index], k[there.index], signs)
                same = memory.tokens[there.index][:, None, :] == texts.tokens[here.index][:, :, None]
                found.append(torch.stack([(weights * same).sum(-1), weights.sum(-1), signs.furthest], -1))
            copied, pointed, best = look.words(found, own).unbind(-1)
            # Rounded, weights may sum to more than 1; what is left would be below 0, and its logarithm not a number.
            pointed = pointed.clamp(max=1)
        most = (texts.place[:, None] + 1).clamp(max=self.pointer.reach)
        share = self.pointer.share(x, best[:, None], most)[:, 0]
        # What points at nothing is left to the vocabulary, so that all words together have probability 1.
        return torch.logaddexp(torch.log1p(-MOST * share * pointed) + own, (share * copied + 1e-9).log())

    def flops(self, words: int = NOMINAL_WORDS) -> int:
        """Operations of writing so many words, without what depends on how much was seen."""
        width = self.words.embedding_dim
        linear = sum(weights(block) for block in self.blocks) + self.words.weight.numel()
        return 2 * words * (linear + len(self.blocks) * 2 * width * (words // 2 + len(self.places)))


@dataclass(frozen=True)
class Look:
    """Which words may look back at which: groups of windows (words here, words remembered there, what speaks for them),
    R of L and C words. `first` is the step of the first texts, as the memory counts."""

    groups: tuple[tuple[Group, Group, Signs], ...]
    total: int
    first: int

    @classmethod
    def of(cls, texts: Texts, memory: Memory, pointer: Pointer, first: int = 0) -> Look:
        """Of target texts; a word of step k may read all that was seen up to o_k."""
        rows = pairs(texts.window, memory.window)
        here, there = Layout.of(texts.window, rows).groups, Layout.of(memory.window, rows).groups
        before = texts.before(pointer.reach, BEGIN)
        named = first_named(memory) if rows and pointer.touched is not None else None
        groups = []
        for a, b in zip(here, there, strict=True):
            step, then = texts.step[a.index][:, :, None] + first, memory.step[b.index][:, None, :]
            signs = Signs(
                readable=(then <= step) & b.valid[:, None, :],
                agreed=agreement(before[a.index], memory.before[b.index]),
                alike=_headed_alike(texts, a, memory.heading[b.index]),
                # Small numbers, as there is one for every pair of words.
                age=(step - then).clamp(0, 32_767).short(),
                named=_named(texts, a, None if named is None else named[b.index], first),
            )
            groups.append((a, b, signs))
        return cls(tuple(groups), len(texts.tokens), first)

    def words(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """(R, L, ...) of every group -> (M, ...); 0 for the words of windows that saw nothing."""
        index = torch.cat([here.index[here.valid] for here, _, _ in self.groups])
        values = torch.cat([part[here.valid] for part, (here, _, _) in zip(parts, self.groups, strict=True)])
        return values.new_zeros(self.total, *values.shape[1:]).index_copy(0, index, values)


def _headed_alike(texts: Texts, here: Group, remembered: Tensor) -> Tensor:
    """Whether `remembered` headings (R, C, P) are those of the words `here`, once these are written: (R, L, C)."""
    many = remembered.shape[-1]
    if not many:
        return remembered.new_zeros(1, 1, 1)
    # Words of a text have the same heading: compared once for every text, of which there are few.
    heads = texts.tokens.new_zeros(len(texts.layout.length), many)
    heads[texts.text] = texts.heading(many)
    found = headed_alike(heads.view(-1, texts.count, many)[here.rows], remembered)
    known = (texts.place[here.index] >= many)[..., None]
    return found.gather(1, texts.step[here.index][..., None].expand(-1, -1, found.shape[-1])) & known


def _named(texts: Texts, here: Group, named: Tensor | None, first: int) -> Tensor:
    """In which ways remembered words were named before the texts of the words `here` began: (R, L, C)."""
    if named is None:
        return here.index.new_zeros(1, 1, 1)
    # Found once for every text, of which there are few.
    steps = first + torch.arange(texts.count, device=named.device)[:, None]
    found = named_by(named[:, None], steps).byte()
    return found.gather(1, texts.step[here.index][..., None].expand(-1, -1, found.shape[-1]))


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
