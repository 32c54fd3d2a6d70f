"""E and U of text worlds: words onto latent tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loopwm.model.config import ModelConfig, TextConfig
from loopwm.model.text.layers import FeedForward, WordAttention, WordBlock, angles
from loopwm.model.text.numbers import NumberValues
from loopwm.model.text.packing import Texts, flattened
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.text.vocabulary import SEEN, SPECIAL, STATE, TASK

PAD, BEGIN, END = (SPECIAL.index(one) for one in ("<pad>", "<begin>", "<end>"))
OPENERS = tuple(SPECIAL.index(one) for one in (TASK, STATE, SEEN))
NOMINAL_WORDS = 32
"""Words of an observation, or of what is decoded, for which FLOPs are counted."""


@dataclass(frozen=True)
class Memory:
    """Encoded words of what was seen and done, which a decoder may look back at and point to.

    Attributes:
        states: (C, D), those of one window after the other. tokens: (C,), the words. step: (C,), k of their o_k or a_k.
        before: (C, F), the words before them in their part of the text, nearest first, as far as a decoder follows.
        heading: (C, P), the words that part begins with. near: (C, 3 or 0), in it, the one before and the two after.
        done: (C,), which are of actions.
        window: (B,), how many belong to every window.
    """

    states: Tensor
    tokens: Tensor
    step: Tensor
    before: Tensor
    heading: Tensor
    near: Tensor
    done: Tensor
    window: Tensor

    @classmethod
    def of(cls, states: Tensor, texts: Texts, config: TextConfig, done: bool = False) -> Memory:
        """Of encoded texts, of actions where they were `done`."""
        before, heading = texts.before(config.follow, BEGIN), texts.heading(config.heading)
        near = torch.cat([texts.before(1, 0), texts.after(2)], 1) if config.touched else texts.before(0, 0)
        acts = torch.full_like(texts.tokens, done, dtype=torch.bool)
        return cls(states, texts.tokens, texts.step, before, heading, near, acts, texts.window)

    def and_also(self, other: Memory) -> Memory:
        """With the words that `other` remembers of the same windows."""
        windows = torch.arange(len(self.window), device=self.window.device)
        owner = torch.cat([windows.repeat_interleave(one.window) for one in (self, other)])
        order = owner.argsort(stable=True)
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
            known = (causes != 0)[..., None]
            bag = (self.words(causes.long()) * known).sum(-2) / known.sum(-2).clamp(min=1) ** 0.5
            states = states + self.cause(bag).to(states.dtype).flatten(0, 1)[texts.text]
        return e, Memory.of(states, texts, self.config)


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
