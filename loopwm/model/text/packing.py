"""Texts one after the other, without padding: most of the work is done on all words at once, and only attention takes
them apart into groups of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Some of the texts, padded to the longest of them.

    Attributes:
        rows: (R,), which texts. index: (R, L), where their words are among all words; any place past the end.
        valid: (R, L), what is not past the end.
    """

    rows: Tensor
    index: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Layout:
    """How M words belong to T texts, which follow each other: of `length` (T,) words, in `groups`."""

    length: Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, length: Tensor, groups: Sequence[Tensor]) -> Layout:
        """With the texts of every group (R,) given; texts without words need be in none."""
        begin = length.cumsum(0) - length
        last = max(int(length.sum()) - 1, 0)
        made = []
        for rows in groups:
            place = torch.arange(int(length[rows].max()), device=length.device)
            index = (begin[rows, None] + place).clamp(max=last)
            made.append(Group(rows, index, place < length[rows, None]))
        return cls(length, tuple(made))

    @cached_property
    def _back(self) -> Tensor:
        """(M,): where every word is in what `join` puts together."""
        order = torch.cat([group.index[group.valid] for group in self.groups])
        return order.argsort()

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """(R, L, ...) of every group -> words (M, ...)."""
        kept = [part[group.valid] for part, group in zip(parts, self.groups, strict=True)]
        return torch.cat(kept)[self._back]


@dataclass(frozen=True)
class Texts:
    """The words of texts (B, K, L), padded with 0, without their padding; those of a window follow each other.

    Attributes:
        tokens: (M,). text: (M,), which of the B K texts a word is from. place: (M,), its place in its part.
        layout: of the texts. parts: of what they consist of. window: (B,), words of every window. count: K.
        opens: (M,), which words only say that a part begins.
    """

    tokens: Tensor
    text: Tensor
    place: Tensor
    layout: Layout
    parts: Layout
    window: Tensor
    count: int
    opens: Tensor

    @property
    def step(self) -> Tensor:
        """(M,): which of the texts of its window a word is from."""
        return self.text % self.count

    def before(self, many: int, first: int) -> Tensor:
        """(M, many): the words before each, nearest first; `first` stands before the beginning, and 0 before that."""
        back = torch.arange(1, many + 1, device=self.place.device)
        known = self.place[:, None] - back
        index = torch.arange(len(self.place), device=self.place.device)[:, None] - back
        beginning = (known == -1) * first
        # What opens a part stands for its beginning, as there is none in what is written.
        tokens = torch.where(self.opens, first, self.tokens)
        return torch.where(known >= 0, tokens[index.clamp(min=0)], beginning) if len(self.place) else beginning

    def after(self, many: int) -> Tensor:
        """(M, many): the words after each, nearest first; 0 where its part has fewer."""
        ahead = torch.arange(1, many + 1, device=self.place.device)
        length = torch.repeat_interleave(self.parts.length, self.parts.length)
        index = torch.arange(len(self.place), device=self.place.device)[:, None] + ahead
        known = self.place[:, None] + ahead < length[:, None]
        return torch.where(known, self.tokens[index.clamp(max=max(len(self.tokens) - 1, 0))], 0)

    def heading(self, many: int) -> Tensor:
        """(M, many): the words with which the part of each begins; 0 where it has fewer."""
        start = torch.arange(len(self.place), device=self.place.device) - self.place
        length = torch.repeat_interleave(self.parts.length, self.parts.length)
        opened = self.opens[start].long()
        ahead = opened[:, None] + torch.arange(many, device=start.device)
        last = max(len(self.tokens) - 1, 0)
        return torch.where(ahead < length[:, None], self.tokens[(start[:, None] + ahead).clamp(max=last)], 0)


def flattened(tokens: Tensor, valid: Tensor | None = None, openers: Sequence[int] = ()) -> Texts:
    """Texts (B, K, L) without padding.

    Args:
        valid: (B, K, L), which words to keep, leading ones of every text; all but zeros when None.
        openers: words that open a part of a text; a text is one part when there are none.
    """
    valid = (tokens != 0) if valid is None else valid
    batch, count, _ = tokens.shape
    length = valid.sum(-1).flatten()
    text, place = valid.flatten(0, 1).nonzero().unbind(1)
    layout = Layout.of(length, by_length(length))
    kept, window = tokens[valid].long(), length.view(batch, count).sum(1)
    opens = torch.isin(kept, kept.new_tensor(openers))
    if not opens.any():
        return Texts(kept, text, place, layout, layout, window, count, opens)
    begins = opens | (place == 0)
    size = torch.bincount(begins.cumsum(0) - 1)
    within = torch.arange(len(kept), device=kept.device) - (size.cumsum(0) - size).repeat_interleave(size)
    return Texts(kept, text, within, layout, Layout.of(size, by_length(size)), window, count, opens)


def by_length(length: Tensor) -> list[Tensor]:
    """Indices of texts (T,) in groups whose lengths differ by at most a half; those without words are left out."""
    known = length.nonzero()[:, 0]
    if len(known) == 0:
        return []
    size = (length[known].float().log2() * 2).ceil().clamp(min=6)
    return [known[size == one] for one in size.unique()]


def pairs(first: Tensor, second: Tensor, most: int = 2**21) -> list[Tensor]:
    """Indices of windows (B,) in groups for products of `first` x `second` words: alike in size, and small together.

    Windows without words on one of the sides are left out.
    """
    known = ((first > 0) & (second > 0)).nonzero()[:, 0]
    order = known[(first * second)[known].argsort()].tolist()
    groups: list[list[int]] = []
    for row in order:
        # Sorted, so that this row is at most the largest of its group so far.
        size = int(first[row]) * int(second[row])
        group = groups[-1] if groups else None
        if group is None or size > 2 * int(first[group[0]]) * int(second[group[0]]) or size * (len(group) + 1) > most:
            groups.append([row])
        else:
            group.append(row)
    return [torch.tensor(group, device=first.device) for group in groups]
