"""E and U of text worlds: words onto latent tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.config import ModelConfig, TextConfig
from loopwm.model.text.extrapolation import LINES, Numerals, Passage, gone_on
from loopwm.model.text.layers import FeedForward, WordAttention, WordBlock, angles
from loopwm.model.text.numbers import NumberValues
from loopwm.model.text.packing import Texts, flattened
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.text.vocabulary import OPENERS, SPECIAL

PAD, BEGIN, END = (SPECIAL.index(one) for one in ("<pad>", "<begin>", "<end>"))
NOMINAL_WORDS = 32
"""Words of an observation, or of what is decoded, for which FLOPs are counted."""


@dataclass(frozen=True)
class Memory:
    """Encoded words of what was seen and done, which a decoder may look back at and point to.

    Attributes:
        states: (C, D), those of one window after the other. tokens: (C,), the words. step: (C,), k of their o_k or a_k.
        before: (C, F), the words before them in their part of the text, nearest first, as far as a decoder follows.
        heading: (C, P), the words that part begins with. near: (C, 3 or 0), in it, the one before and the two after.
        done: (C,), which are of actions. line: (C,), the kind of line, 1 to LINES, along which texts were gone on
            with; 0 in all that was read or done.
        window: (B,), how many belong to every window.
    """

    states: Tensor
    tokens: Tensor
    step: Tensor
    before: Tensor
    heading: Tensor
    near: Tensor
    done: Tensor
    line: Tensor
    window: Tensor

    @classmethod
    def of(
        cls, states: Tensor, texts: Texts, config: TextConfig, done: bool = False, end: Tensor | None = None
    ) -> Memory:
        """Of encoded texts, of actions where they were `done`. Their parts have ends to repeat, which differ from the
        states of the words before by `end` (D,), if that is given."""
        before, heading = texts.before(config.follow, BEGIN), texts.heading(config.heading)
        near = torch.cat([texts.before(1, 0), texts.after(2)], 1) if config.touched else texts.before(0, 0)
        acts = torch.full_like(texts.tokens, done, dtype=torch.bool)
        read = torch.zeros_like(texts.tokens)
        words = cls(states, texts.tokens, texts.step, before, heading, near, acts, read, texts.window)
        return words if end is None else words._ended(texts, end)

    def _ended(self, texts: Texts, end: Tensor) -> Memory:
        """With <end> after every part of the texts that it consists of."""
        length = texts.parts.length[texts.parts.length > 0]
        last = length.cumsum(0) - 1
        said = torch.where(texts.opens, BEGIN, texts.tokens)[last, None]
        ends = replace(
            self,
            states=self.states[last] + end.to(self.states.dtype),
            tokens=torch.full_like(last, END),
            step=self.step[last],
            before=torch.cat([said, self.before[last]], 1)[:, : self.before.shape[1]],
            heading=self.heading[last],
            near=functional.pad(said, (0, 2))[:, : self.near.shape[1]],
            done=self.done[last],
            line=self.line[last],
            window=torch.bincount(texts.text[last] // texts.count, minlength=len(self.window)),
        )
        place = torch.arange(len(self.tokens), device=last.device)
        return self._merged(ends, torch.cat([place, last]).argsort(stable=True))

    def and_also(self, other: Memory) -> Memory:
        """With the words that `other` remembers of the same windows."""
        windows = torch.arange(len(self.window), device=self.window.device)
        owner = torch.cat([windows.repeat_interleave(one.window) for one in (self, other)])
        return self._merged(other, owner.argsort(stable=True))

    def _merged(self, other: Memory, order: Tensor) -> Memory:
        parts = [part for part in self.__dataclass_fields__ if part != "window"]
        pairs = [torch.cat([getattr(self, part), getattr(other, part)])[order] for part in parts]
        return Memory(*pairs, window=self.window + other.window)


class WordEncoder(nn.Module):
    """Words that read each other within their text, and N latent tokens that read the words."""

    def __init__(self, config: ModelConfig, vocabulary: int, depth: int) -> None:
        super().__init__()
        width = config.width
        self.tokens, self.rotated, self.config = config.tokens, width // config.heads // 2, config.text
        self.words = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        self.numbers: NumberValues | None = None
        self.blocks = nn.ModuleList(WordBlock(width, config.heads, config.hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.readers = nn.Parameter(torch.randn(config.tokens, width) / width**0.5)
        self.read = WordAttention(width, config.heads)
        self.mlp = FeedForward(width, config.hidden)
        # Whatever the words, what is summed up is bounded: certificates rest on that.
        self.norm_out = nn.RMSNorm(width)
        self.out = nn.Linear(width, width, bias=False)

    def taken_apart(self, tokens: Tensor) -> Texts:
        """Texts (B, K, L) without padding, in parts where these are told apart."""
        return flattened(tokens, openers=OPENERS if self.config.heading else ())

    def encoded(self, texts: Texts) -> Tensor:
        """States (M, D) of words, which look at no part of a text but their own."""
        x, turn = self.words(texts.tokens), angles(texts.place, self.rotated)
        if self.numbers is not None:
            x = x + self.numbers(texts)
        for block in self.blocks:
            x = block(x, texts.parts, turn)
        return self.norm(x)

    def summed(self, states: Tensor, texts: Texts, past: int = 0) -> Tensor:
        """Latent tokens (B, K, N, D) of the texts whose words have `states` (M, D), but for `past` leading ones."""
        read = self.read.gathered(self.readers, states, texts.layout).unflatten(0, (-1, texts.count))[:, past:]
        return self.out(self.norm_out(self.mlp(self.readers + read)))

    def flops(self, words: int = NOMINAL_WORDS) -> int:
        """Operations of one text of so many words."""
        width = self.words.embedding_dim
        blocks = sum(weights(block) for block in self.blocks) * words + len(self.blocks) * 2 * words**2 * width
        reading = words * 2 * width**2 + self.tokens * (3 * width**2 + weights(self.mlp) + 2 * words * width)
        return 2 * (blocks + reading)


def weights(module: nn.Module) -> int:
    """Numbers in the matrices of a module."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


class TextEncoder(WordEncoder):
    """E: tokens (..., L) -> (..., N, D). Each latent token reads the words with a query of its own."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__(config, len(spec.names), config.text.encoder)
        if config.text.numbers:
            self.numbers = NumberValues(spec.names, config.width)
        # What was done before an observation was seen tells a decoder which of them to look back at.
        self.cause = nn.Linear(config.width, config.width, bias=False)
        nn.init.zeros_(self.cause.weight)
        self.lines = nn.Parameter(torch.zeros(LINES, config.width)) if config.text.extrapolate else None
        self.end = nn.Parameter(torch.zeros(config.width)) if config.text.ends else None
        self.numerals = Numerals.of(spec.names)

    def forward(self, tokens: Tensor) -> Tensor:
        """Every text on its own; nothing is kept to look back at."""
        return self.window(tokens.flatten(0, -2)[:, None])[0].unflatten(0, tokens.shape[:-1])[..., 0, :, :]

    def window(self, tokens: Tensor, causes: Tensor | None = None, past: int = 0) -> tuple[Tensor, Memory]:
        """The texts (B, J+K, L) of windows: e (B, K, N, D), and all their words to look back at.

        Args:
            causes: (B, J+K, A), the words of what was done before each of them; all 0 where nothing was.
            past: J, leading texts that no latent is made of.
        """
        texts = self.taken_apart(tokens)
        states = self.encoded(texts)
        e = self.summed(states, texts, past)
        if causes is not None:
            states = self._caused(states, texts, causes)
        return e, Memory.of(states, texts, self.config, end=self.end)

    def _caused(self, states: Tensor, texts: Texts, causes: Tensor) -> Tensor:
        known = (causes != 0)[..., None]
        bag = (self.words(causes.long()) * known).sum(-2) / known.sum(-2).clamp(min=1) ** 0.5
        return states + self.cause(bag).to(states.dtype).flatten(0, 1)[texts.text]

    def extrapolated(self, memory: Memory, steps: Tensor, past: int = 0, to: Tensor | None = None) -> Memory:
        """With what would be read after the actions of `steps` (B, K) if numbers went on along lines; as it is where
        the model was not made for that.

        Args:
            past: J, steps before which time is not known. to: (B,), which windows are offered it; all when None.
        """
        if self.lines is None or not len(memory.tokens):
            return memory
        told = remembered(memory, past)
        if to is not None:
            told = [window if chosen else [] for window, chosen in zip(told, to.tolist(), strict=True)]
        offered = gone_on(told, steps.tolist(), self.numerals, past)
        if not any(text for window in offered for text, _ in window):
            return memory
        tokens, causes = (_padded([[pair[i] for pair in window] for window in offered], memory.tokens) for i in (0, 1))
        texts = self.taken_apart(tokens)
        made = Memory.of(self._caused(self.encoded(texts), texts, causes), texts, self.config, end=self.end)
        line, k = made.step % LINES, made.step // LINES
        states = made.states + self.lines[line].to(made.states.dtype)
        window = torch.arange(len(steps), device=steps.device).repeat_interleave(made.window)
        return memory.and_also(replace(made, states=states, step=steps[window, k], line=line + 1))


def remembered(memory: Memory, past: int = 0) -> list[list[Passage]]:
    """The texts of every window, as they follow each other in the memory, from the action before o_past on."""
    windows = torch.arange(len(memory.window), device=memory.window.device).repeat_interleave(memory.window)
    told = (memory.step >= past - 1) & (memory.tokens != END)
    kept = torch.stack([windows, memory.step, memory.done.long(), memory.tokens])[:, told].cpu()
    begins = torch.ones(kept.shape[1], dtype=torch.bool)
    begins[1:] = (kept[:3, 1:] != kept[:3, :-1]).any(0)
    first = begins.nonzero()[:, 0]
    owners, words = kept[:3, first].T.tolist(), kept[3].tolist()
    found: list[list[Passage]] = [[] for _ in memory.window]
    for (window, step, done), (begin, end) in zip(owners, pairwise([*first.tolist(), len(words)]), strict=True):
        found[window].append(Passage(step, bool(done), words[begin:end]))
    return found


def _padded(rows: list[list[list[int]]], like: Tensor) -> Tensor:
    """(B, K, L), padded with 0."""
    longest = max(len(text) for row in rows for text in row)
    return like.new_tensor([[[*text, *[PAD] * (longest - len(text))] for text in row] for row in rows])


class TextActionEncoder(WordEncoder):
    """U: tokens (B, A) -> (B, N, D). Unlike a vector, an action in words has parts, so every latent token reads it."""

    def __init__(self, config: ModelConfig, spec: ActionSpec, vocabulary: int) -> None:
        super().__init__(config, vocabulary, 1)
        self.spec = spec

    def forward(self, tokens: Tensor) -> Tensor:
        return self.window(tokens[:, None])[0][:, 0]

    def window(self, tokens: Tensor, past: int = 0) -> tuple[Tensor, Memory]:
        """The actions (B, J+K, A) of windows: u (B, K, N, D), and all their words to look back at."""
        texts = self.taken_apart(tokens)
        states = self.encoded(texts)
        return self.summed(states, texts, past), Memory.of(states, texts, self.config, done=True)

    def flops(self, words: int = NOMINAL_WORDS // 4) -> int:
        """Operations of one action of so many words."""
        return super().flops(words)
