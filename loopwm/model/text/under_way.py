"""Texts that are being written: what they read, and what is kept of the words they consist of so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.model.text.encoders import BEGIN, END, Memory
from loopwm.model.text.head import MOST, STEPS, TextHead
from loopwm.model.text.layers import angles, by_head
from loopwm.model.text.naming import first_named, named_by
from loopwm.model.text.pointer import Signs, agreement, headed_alike

_LATER = 1e-4
"""Of an agreement is one step of age worth, so that it decides between equals alone."""


@dataclass(frozen=True)
class Remembered:
    """What windows look back at, padded to C words.

    Attributes:
        age: (W, 1, D/2H), angles of how old it all is. keys, values: (W, H, 1 + C, D/H), for reading.
        states: (W, C, D). readable: (W, 1, C). pointers: (W, C, D). tokens: (W, C). before: (W, C, F), what stands
            before each of them.
        heading: (W, C, P), what the part begins with that they are from. since: (W, 1, C), steps since it was read.
        named: (W, 1, C), in which ways actions have named it since.
    """

    age: Tensor
    keys: Tensor
    values: Tensor
    states: Tensor
    readable: Tensor
    pointers: Tensor
    tokens: Tensor
    before: Tensor
    heading: Tensor
    since: Tensor
    named: Tensor

    @classmethod
    def of(cls, head: TextHead, memory: Memory | None, step: Tensor, like: Tensor) -> Remembered:
        """At `step` (W,). Without a memory nothing is looked back at, but the layer that looks back is still there."""
        batch, reach, many = len(step), head.pointer.reach, head.pointer.heading
        if memory is None or not len(memory.tokens):
            states, tokens = like.new_zeros(batch, 0, like.shape[-1]), step.new_zeros(batch, 0)
            then, valid, before = tokens, tokens.bool(), step.new_zeros(batch, 0, reach)
            heading, named = step.new_zeros(batch, 0, many), tokens
        else:
            place = torch.arange(int(memory.window.max()), device=step.device)
            begin = memory.window.cumsum(0) - memory.window
            valid = place < memory.window[:, None]
            index = (begin[:, None] + place).clamp(max=len(memory.tokens) - 1)
            states, tokens, then = memory.states[index], memory.tokens[index], memory.step[index]
            before, heading = memory.before[index], memory.heading[index]
            asked = head.pointer.touched is not None
            named = named_by(first_named(memory)[index], step[:, None]) if asked else torch.zeros_like(tokens)
        read = head.back.read
        k, v = read.lined_up(*read.keys(states, angles(then, head.rotated, STEPS)))
        return cls(
            age=angles(step[:, None], head.rotated, STEPS),
            keys=k.unflatten(0, (batch, -1)),
            values=v.unflatten(0, (batch, -1)),
            states=states,
            readable=(valid & (then <= step[:, None]))[:, None],
            pointers=head.pointer.keys(states),
            tokens=tokens,
            # Word by word of what stands before lies together, as it is compared.
            before=before.int().movedim(-1, 0).contiguous().movedim(0, -1),
            heading=heading.int().movedim(-1, 0).contiguous().movedim(0, -1),
            since=(step[:, None] - then).clamp(min=0)[:, None],
            named=named[:, None],
        )

    def keep(self, rows: Tensor) -> Remembered:
        """Of some windows."""
        return Remembered(*(getattr(self, part)[rows] for part in self.__dataclass_fields__))


class UnderWay:
    """S texts in each of W windows. Those of a window read the same latent and the same memory.

    Args:
        latents: (W, N, D), h_k. step: (W,), k as the memory counts.
    """

    def __init__(self, head: TextHead, latents: Tensor, memory: Memory | None, step: Tensor, texts: int = 1) -> None:
        self.head, self.texts, self.place = head, texts, 0
        y, rows = latents + head.places, len(latents) * texts
        self.latents, self.words = [], []
        for block in head.layers:
            k, v = block.latent.lined_up(*block.latent.keys(y))
            self.latents.append((k.unflatten(0, (len(y), -1)), v.unflatten(0, (len(y), -1))))
            none = y.new_zeros(rows, 0, block.words.heads, y.shape[-1] // block.words.heads)
            k, v = block.words.lined_up(none, none)
            self.words.append((k.unflatten(0, (rows, -1)), v.unflatten(0, (rows, -1))))
        self.back = Remembered.of(head, memory if head.copies else None, step, latents) if head.copies else None
        self.reach = head.pointer.reach if head.copies else 0
        # Nothing stands before the words of a text.
        self.said = torch.zeros(rows, self.reach, dtype=torch.int, device=y.device)

    def next(self, words: Tensor) -> Tensor:
        """Probabilities (W, S, L, V) of what comes after each of `words` (W, S, L), which become part of the texts."""
        head, rows = self.head, words.flatten(0, 1)
        count = rows.shape[1]
        self.said = torch.cat([self.said, rows.int()], 1)
        place = self.place + torch.arange(count, device=words.device)
        self.place += count
        signs = None if self.back is None else self._signs(place, self.back)
        x, turn = head.words(rows), angles(place, head.rotated).expand(len(rows), -1, -1)
        for i, block in enumerate(head.layers):
            if signs is not None and self.back is not None and i == len(head.layers) - 1:
                x = self._looked_back(x, self.back, signs)
            y = block.norm_words(x)
            new = (by_head(part).unflatten(0, (len(y), -1)) for part in block.words.keys(y, turn))
            k, v = (torch.cat(pair, 2) for pair in zip(self.words[i], new, strict=True))
            self.words[i] = k, v
            q = block.words.queries(y, turn)
            x = x + block.words.out(block.words.attend_to(q, k.flatten(0, 1), v.flatten(0, 1), self._up_to(place)))
            q = self._by_window(block.latent.queries(block.norm_latent(x)))
            k, v = (part.flatten(0, 1) for part in self.latents[i])
            x = block.mlp(x + block.latent.out(block.latent.attend_to(q, k, v)).view_as(x))
        return self._chosen(self._by_window(head.norm(x)), signs, place)

    def _signs(self, place: Tensor, seen: Remembered) -> Signs:
        """Of all that is remembered, for words at `place` (L,) of every text."""
        return Signs(
            readable=seen.readable,
            agreed=agreement(self._by_window(self._last(len(place))), seen.before),
            alike=self._headed_alike(place, seen),
            age=seen.since,
            named=seen.named,
        )

    def _last(self, count: int) -> Tensor:
        """What stands up to each of the last words, nearest first: (W S, L, F)."""
        if not self.reach:
            return self.said.new_zeros(len(self.said), count, 0)
        return self.said.unfold(1, self.reach, 1)[:, -count:].flip(-1)

    def _up_to(self, place: Tensor) -> Tensor | None:
        if len(place) == 1:
            return None
        seen = torch.arange(self.place, device=place.device) <= place[:, None]
        return seen.expand(len(self.said), -1, -1)

    def _by_window(self, x: Tensor) -> Tensor:
        """(W S, L, ...) -> (W, S L, ...)."""
        return x.unflatten(0, (-1, self.texts)).flatten(1, 2)

    def _looked_back(self, x: Tensor, seen: Remembered, signs: Signs) -> Tensor:
        back = self.head.back
        if not seen.readable.shape[-1]:
            return back.mlp(x)
        if self.head.expectation is not None:
            x = x + self.head.expectation(seen.states, signs).view_as(x)
        q = back.read.queries(self._by_window(back.norm(x)), seen.age)
        read = back.read.attend_to(q, seen.keys.flatten(0, 1), seen.values.flatten(0, 1), seen.readable)
        return back.mlp(x + back.read.out(read).view_as(x))

    def _chosen(self, x: Tensor, signs: Signs | None, place: Tensor) -> Tensor:
        """At states x (W, S L, D) of words at `place` (L,): (W, S, L, V)."""
        head, seen = self.head, self.back
        own = head.scores(x).softmax(-1)
        if seen is None or signs is None:
            return self._by_text(own)
        weights = head.pointer.weights(x, seen.pointers, signs)
        copied = torch.zeros_like(own).scatter_add_(-1, seen.tokens[:, None, :].expand_as(weights), weights)
        best = signs.furthest[..., None] if weights.shape[-1] else own[..., :1] * 0
        most = (place + 1).clamp(max=self.reach).repeat(self.texts)[:, None]
        share = head.pointer.share(x, best, most)
        # Rounded, weights may sum to more than 1; what is left would be below 0, and its logarithm not a number.
        pointed = weights.sum(-1, keepdim=True).clamp(max=1)
        return self._by_text((1 - MOST * share * pointed) * own + share * copied)

    def _headed_alike(self, place: Tensor, seen: Remembered) -> Tensor:
        """Whether remembered headings are those of the texts, at `place` (L,), once these are written: (W, S L, C)."""
        many = self.head.pointer.heading
        if not many or self.place <= many:
            return seen.since.new_zeros(1, 1, 1)
        # After what stands before the words of a text, and after <begin>.
        heads = self.said[:, self.reach + 1 : self.reach + 1 + many].unflatten(0, (-1, self.texts))
        known = (place >= many).repeat(self.texts)
        return headed_alike(heads, seen.heading).repeat_interleave(len(place), 1) & known[:, None]

    def _by_text(self, x: Tensor) -> Tensor:
        """(W, S L, ...) -> (W, S, L, ...)."""
        return x.unflatten(1, (self.texts, -1))

    def guess(self, word: int, most: int) -> list[int]:
        """Of a single text, words that may come after `word`: those that stand in what is remembered where what stands
        before agrees best with what is written, the latest of them, up to the end of the text they are in."""
        seen = self.back
        if seen is None or not self.reach or not seen.readable.any():
            return []
        said = torch.cat([self.said, self.said.new_tensor([[word]])], 1)[:, -self.reach :].flip(-1)
        agreed = agreement(said[:, None], seen.before).masked_fill(~seen.readable, -1.0) - _LATER * seen.since
        here = int(agreed.argmax())
        words = seen.tokens[0, here : here + most].tolist()
        begins = seen.before[0, here + 1 : here + len(words), 0].tolist()
        if BEGIN in begins:
            words = [*words[: begins.index(BEGIN) + 1], END]
        return words[:most]

    def forget(self, count: int) -> None:
        """Take the last `count` words back."""
        if count:
            self.words = [(k[:, :, :-count], v[:, :, :-count]) for k, v in self.words]
            self.said, self.place = self.said[:, :-count], self.place - count

    def keep(self, windows: Tensor) -> None:
        """Go on with some windows."""
        self.latents = [(k[windows], v[windows]) for k, v in self.latents]
        self.back = self.back and self.back.keep(windows)
        texts = torch.arange(self.texts, device=windows.device)
        self.go_on_from((windows[:, None] * self.texts + texts).flatten())

    def go_on_from(self, rows: Tensor) -> None:
        """Every text goes on from what another one of its window wrote; rows count the texts of all windows."""
        self.words = [(k[rows], v[rows]) for k, v in self.words]
        self.said = self.said[rows]
