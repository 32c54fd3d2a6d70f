"""What a text head would say: greedy, exactly, or by a beam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.text.encoders import BEGIN, END, Memory
from loopwm.model.text.head import TextHead
from loopwm.model.text.under_way import UnderWay


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
    under_way = UnderWay(head, latents, memory, step, beam)
    longest = longest or head.longest
    if beam > 1:
        return _beam(under_way, longest)
    return _drafted(under_way, longest) if len(latents) == 1 else _greedy(under_way, longest)


def _greedy(under_way: UnderWay, longest: int) -> Written:
    batch, device = len(under_way.said), under_way.said.device
    tokens = torch.zeros(batch, longest, dtype=torch.long, device=device)
    total = torch.zeros(batch, device=device)
    rows = torch.arange(batch, device=device)
    token = torch.full((batch,), BEGIN, device=device)
    for place in range(longest):
        chance, token = under_way.next(token[:, None, None])[:, 0, 0].max(-1)
        total[rows] += chance.log()
        going = token != END
        tokens[rows[going], place] = token[going]
        if not going.any():
            break
        if not going.all():
            rows, token = rows[going], token[going]
            under_way.keep(going.nonzero()[:, 0])
    return Written(tokens[:, : max(int((tokens != 0).sum(1).max()), 1)], total)


_GUESSES = 6
"""Words that are looked at ahead of what is known."""


def _drafted(under_way: UnderWay, longest: int) -> Written:
    """What `_greedy` writes of one text, several words at a time: most texts go on as one that was read, so that words
    are guessed from there and looked at together. What the head would not have chosen is taken back.

    Source: speculative decoding, arXiv 2211.17192; guesses from what was read as in arXiv 2304.04487.
    """
    device = under_way.said.device
    said: list[int] = []
    total, given = torch.zeros(1, device=device), [BEGIN]
    while True:
        chance, chosen = under_way.next(torch.tensor([[given]], device=device))[0, 0].max(-1)
        words, guesses = chosen.tolist(), given[1:]
        right = 0
        while right < len(guesses) and guesses[right] == words[right]:
            right += 1
        # One more is known: what comes after the last guess that is right.
        new = words[: right + 1][: longest - len(said)]
        if END in new:
            new = new[: new.index(END) + 1]
        said += new
        total += chance[: len(new)].log().sum()
        if new[-1] == END or len(said) == longest:
            break
        under_way.forget(len(guesses) - right)
        given = [new[-1], *under_way.guess(new[-1], _GUESSES)]
    return Written(torch.tensor([[word for word in said if word != END] or [0]], device=device), total)


def _beam(under_way: UnderWay, longest: int) -> Written:
    beam, device = under_way.texts, under_way.said.device
    batch = len(under_way.said) // beam
    written = torch.zeros(batch, longest, dtype=torch.long, device=device)
    likely = torch.zeros(batch, device=device)
    texts = torch.arange(batch, device=device)
    total = torch.full((batch, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    tokens = torch.zeros(batch, beam, longest, dtype=torch.long, device=device)
    ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    token = torch.full((batch, beam), BEGIN, device=device)
    for place in range(longest):
        scores = under_way.next(token[..., None])[:, :, 0].log()
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
            under_way.keep(going)
            texts, total, tokens, ended, word = (part[going] for part in (texts, total, tokens, ended, word))
        token = word
    return Written(written[:, : max(int((written != 0).sum(1).max()), 1)], likely)
