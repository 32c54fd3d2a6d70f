"""What a text head would say: greedy, exactly and with a cache, or by a beam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.text.encoders import BEGIN, END, Memory
from loopwm.model.text.head import STEPS, TextHead, agreement
from loopwm.model.text.layers import angles


@dataclass(frozen=True)
class Written:
    """Texts and how sure the head was of them.

    Attributes:
        tokens: (B, L), padded with 0, without `<end>`.
        log_probability: (B,), of the whole text with its end.
    """

    tokens: Tensor
    log_probability: Tensor


@torch.no_grad()
def write(
    head: TextHead,
    latents: Tensor,
    memory: Memory | None = None,
    step: Tensor | None = None,
    beam: int = 1,
    longest: int = 0,
) -> Written:
    """The texts that latents h_k (B, N, D) stand for.

    Args:
        memory: what was seen, a window for each of them; a head that copies has nothing to copy without it.
        step: (B,), k as the memory counts; all of the memory is looked back at when None.
        beam: texts kept while writing; 1 takes the likeliest word every time.
        longest: words after which a text is cut off; the longest of the training data when 0.

    Raises:
        UserError: a beam of less than 1.
    """
    if beam < 1:
        raise UserError(f"A beam keeps at least 1 text, got {beam}.")
    if step is None:
        last = 0 if memory is None or not len(memory.step) else int(memory.step.max())
        step = torch.full((len(latents),), last, device=latents.device)
    under_way = _UnderWay(head, latents, memory if head.copies else None, step)
    longest = longest or head.longest
    return _greedy(under_way, longest) if beam == 1 else _beam(under_way, longest, beam)


class _UnderWay:
    """Texts being written: what they read, and keys of their words so far, layer by layer. Rows can be left behind."""

    def __init__(self, head: TextHead, latents: Tensor, memory: Memory | None, step: Tensor) -> None:
        self.head, self.place = head, 0
        y = latents + head.places
        self.latents = [block.latent.keys(y) for block in head.layers]
        self.words: list[tuple[Tensor, Tensor]] = []
        reach = head.pointer.reach if head.copies else 0
        self.before = torch.zeros(len(latents), reach, dtype=torch.long, device=latents.device)
        # Without a memory nothing is looked back at, but the layer that looks back is still there.
        self.back: tuple[Tensor, ...] = ()
        if head.copies:
            self.back = _remembered(head, memory, step, latents)

    def next(self, token: Tensor) -> Tensor:
        """Probabilities (R, V) of the word after `token` (R,)."""
        head = self.head
        x = head.words(token[:, None])
        self.before = torch.cat([token[:, None], self.before], 1)[:, : self.before.shape[1]]
        turn = angles(torch.full_like(token[:, None], self.place), head.rotated)
        words = []
        for i, block in enumerate(head.layers):
            if head.copies and i == len(head.layers) - 1:
                x = self._looked_back(x)
            y = block.norm_words(x)
            k, v = block.words.keys(y, turn)
            if self.words:
                k, v = (torch.cat(pair, 1) for pair in zip(self.words[i], (k, v), strict=True))
            words.append((k, v))
            x = x + block.words.out(block.words.attend(block.words.queries(y, turn), k, v, _all(k)))
            k, v = self.latents[i]
            q = block.latent.queries(block.norm_latent(x))
            x = block.mlp(x + block.latent.out(block.latent.attend(q, k, v, _all(k))))
        self.words, self.place = words, self.place + 1
        return self._probabilities(head.norm(x))[:, 0]

    def _looked_back(self, x: Tensor) -> Tensor:
        age, readable, k, v, *_ = self.back
        back = self.head.back
        if not readable.shape[-1]:
            return back.mlp(x)
        read = back.read.attend(back.read.queries(back.norm(x), age), k, v, readable)
        return back.mlp(x + back.read.out(read))

    def _probabilities(self, x: Tensor) -> Tensor:
        """Of every word of the vocabulary at states x (R, 1, D): (R, 1, V)."""
        head = self.head
        own = head.scores(x).softmax(-1)
        if not head.copies:
            return own
        _, readable, _, _, pointers, tokens, before, since = self.back
        preferred = head.pointer.preference(x, agreement(self.before[:, None], before), since)
        weights = head.pointer.weights(head.pointer.queries(x), pointers, readable, preferred)
        copied = torch.zeros_like(own).scatter_add_(-1, tokens[:, None, :], weights)
        share = head.pointer.copy(x).float().sigmoid()
        return (1 - share * weights.sum(-1, keepdim=True)) * own + share * copied

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, or with rows several times."""
        self.latents = [(k[rows], v[rows]) for k, v in self.latents]
        self.back = tuple(part[rows] for part in self.back)
        self.go_on_from(rows)

    def go_on_from(self, rows: Tensor) -> None:
        """Every row goes on from what another one wrote, which reads the same latent and memory."""
        self.words = [(k[rows], v[rows]) for k, v in self.words]
        self.before = self.before[rows]


def _remembered(head: TextHead, memory: Memory | None, step: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """What rows look back at, padded: angles of their age, what is readable, keys, values, pointers, tokens, what
    stands before them, steps since then."""
    batch, reach = len(step), head.pointer.reach
    if memory is None or not len(memory.tokens):
        states, tokens = like.new_zeros(batch, 0, like.shape[-1]), step.new_zeros(batch, 0)
        then, valid, before = tokens, tokens.bool(), step.new_zeros(batch, 0, reach)
    else:
        place = torch.arange(int(memory.window.max()), device=step.device)
        begin = memory.window.cumsum(0) - memory.window
        valid = place < memory.window[:, None]
        index = (begin[:, None] + place).clamp(max=len(memory.tokens) - 1)
        states, tokens, then = memory.states[index], memory.tokens[index], memory.step[index]
        before = memory.before[index]
    readable = (valid & (then <= step[:, None]))[:, None]
    k, v = head.back.read.keys(states, angles(then, head.rotated, STEPS))
    age = angles(step[:, None], head.rotated, STEPS)
    return age, readable, k, v, head.pointer.keys(states), tokens, before, (step[:, None] - then).clamp(min=0)[:, None]


def _all(k: Tensor) -> Tensor:
    return torch.ones(len(k), 1, k.shape[1], dtype=torch.bool, device=k.device)


def _greedy(under_way: _UnderWay, longest: int) -> Written:
    batch, device = len(under_way.latents[0][0]), under_way.latents[0][0].device
    tokens = torch.zeros(batch, longest, dtype=torch.long, device=device)
    total = torch.zeros(batch, device=device)
    rows = torch.arange(batch, device=device)
    token = torch.full((batch,), BEGIN, device=device)
    for place in range(longest):
        chance, token = under_way.next(token).max(-1)
        total[rows] += chance.log()
        going = token != END
        tokens[rows[going], place] = token[going]
        if not going.any():
            break
        if not going.all():
            rows, token = rows[going], token[going]
            under_way.keep(going.nonzero()[:, 0])
    return Written(tokens[:, : max(int((tokens != 0).sum(1).max()), 1)], total)


def _beam(under_way: _UnderWay, longest: int, beam: int) -> Written:
    batch, device = len(under_way.latents[0][0]), under_way.latents[0][0].device
    under_way.keep(torch.arange(batch, device=device).repeat_interleave(beam))
    written = torch.zeros(batch, longest, dtype=torch.long, device=device)
    likely = torch.zeros(batch, device=device)
    texts = torch.arange(batch, device=device)
    total = torch.full((batch, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    tokens = torch.zeros(batch, beam, longest, dtype=torch.long, device=device)
    ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    token = torch.full((batch * beam,), BEGIN, device=device)
    for place in range(longest):
        scores = under_way.next(token).log().unflatten(0, (len(texts), beam))
        # A text that has ended stays as it is: its only continuation is its end, at no cost.
        stay = torch.full_like(scores, -torch.inf)
        stay[..., END] = 0.0
        scores = total[..., None] + torch.where(ended[..., None], stay, scores)
        total, best = scores.flatten(1).topk(beam)
        parent, word = best // scores.shape[-1], best % scores.shape[-1]
        rows = torch.arange(len(texts), device=device)[:, None]
        tokens, ended = tokens[rows, parent], ended[rows, parent] | (word == END)
        tokens[..., place] = torch.where(ended, 0, word)
        written[texts], likely[texts] = tokens[:, 0], total[:, 0]
        # The likeliest comes first, and no text becomes likelier by going on: where it has ended, the search has.
        going = (~ended[:, 0]).nonzero()[:, 0]
        if not len(going):
            break
        under_way.go_on_from((rows * beam + parent).flatten())
        if len(going) < len(texts):
            under_way.keep((going[:, None] * beam + torch.arange(beam, device=device)).flatten())
            texts, total, tokens, ended, word = (part[going] for part in (texts, total, tokens, ended, word))
        token = word.flatten()
    return Written(written[:, : max(int((written != 0).sum(1).max()), 1)], likely)
