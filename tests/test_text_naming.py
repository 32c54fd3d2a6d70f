"""A head that copies can tell what actions have named since it was seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from loopwm.model.config import ModelConfig, TextConfig
from loopwm.model.text.encoders import Memory
from loopwm.model.text.head import TextHead
from loopwm.model.text.naming import NAMES, NEVER, first_named, named_by
from loopwm.model.text.packing import flattened
from loopwm.model.text.pointer import Signs
from loopwm.spaces import ObservationSpec

TOUCHED = TextConfig(encoder=1, decoder=1, follow=16, touched=True)
STEPS = st.lists(
    st.tuples(st.lists(st.integers(7, 9), min_size=1, max_size=6), st.lists(st.integers(7, 9), min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)


def padded(texts: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])


def remembered(windows: list[list[tuple[list[int], list[int]]]]) -> Memory:
    """Of windows of as many steps: what was seen at each, and done."""
    parts = []
    for side, done in ((0, False), (1, True)):
        words = padded([step[side] for window in windows for step in window])
        texts = flattened(words.view(len(windows), -1, words.shape[1]))
        parts.append(Memory.of(torch.zeros(len(texts.tokens), 8), texts, TOUCHED, done))
    return parts[0].and_also(parts[1])


def told(window: list[tuple[list[int], list[int]]]) -> list[list[int]]:
    """What `first_named` should find in a window, word by word: all that was seen, then all that was done."""
    found = []
    for side in (0, 1):
        for step, texts in enumerate(window):
            for place in range(len(texts[side])):
                found.append([])
                for begin, count in NAMES:
                    name = texts[side][max(place + begin, 0) : place + begin + count]
                    later = [
                        k
                        for k in range(step + side, len(window))
                        if len(name) == count
                        and any(window[k][1][i : i + count] == name for i in range(len(window[k][1])))
                    ]
                    found[-1].append(later[0] if later else NEVER)
    return found


@given(STEPS, STEPS)
@settings(max_examples=80)
def test_names_are_found_in_the_next_action_that_holds_them(
    one: list[tuple[list[int], list[int]]], other: list[tuple[list[int], list[int]]]
) -> None:
    steps = min(len(one), len(other))
    windows = [one[:steps], other[:steps]]
    assert first_named(remembered(windows)).tolist() == [line for window in windows for line in told(window)]


MAT, SEES, A, PEN, CUP, ONE, TAKE = range(20, 27)


@torch.no_grad()
def likely(config: TextConfig, taken: bool, step: int) -> torch.Tensor:
    """Of `a pen 1` and of `a cup 1` after what is seen on the mat, once it was read, the pen was taken or nothing was
    done, and a step went by: probability of each."""
    torch.manual_seed(0)
    model = ModelConfig(width=8, heads=2, mlp_ratio=2, tokens=2, text=config)
    head = TextHead(model, ObservationSpec("text", (8,), tuple(f"word {k}" for k in range(40))))
    head.pointer.copy.bias.fill_(20.0)
    head.pointer.sharpness.fill_(0.0)
    head.pointer.follow.bias.fill_(8.0)
    if head.pointer.touched is not None:
        # What a learned head might do: pass over a thing of two words that was named.
        head.pointer.touched.bias[NAMES.index((0, 2))] = -40.0
    seen = [MAT, SEES, A, PEN, ONE, A, CUP, ONE]
    memory = remembered([[(seen, [TAKE, PEN if taken else TAKE, ONE]), ([MAT], [TAKE]), ([MAT], [TAKE])]])
    found = []
    for thing in (PEN, CUP):
        targets = torch.zeros(1, 3, 4, dtype=torch.long)
        targets[:, step] = torch.tensor([MAT, SEES, A, thing])
        valid = torch.zeros(1, 3)
        valid[:, step] = 1
        scored = head.log_likelihood(torch.zeros(1, 3, 2, 8), targets, memory, valid)
        found.append(scored.log_probability[3].exp())
    return torch.stack(found)


def test_what_was_taken_is_passed_over_and_the_list_goes_on_behind_it() -> None:
    untouched = TextConfig(encoder=1, decoder=1, follow=16)
    for step in (0, 2):
        pen, cup = likely(TOUCHED, taken=True, step=step)
        assert cup > 0.9 > 0.1 > pen
        pen, cup = likely(TOUCHED, taken=False, step=step)
        assert pen > 0.9 > 0.1 > cup
        # Without the switch, nothing tells that it is gone.
        pen, cup = likely(untouched, taken=True, step=step)
        assert pen > 0.9 > 0.1 > cup


def test_nothing_is_passed_over_before_that_is_learned() -> None:
    head = TextHead(
        ModelConfig(width=8, heads=2, mlp_ratio=2, tokens=2, text=TOUCHED),
        ObservationSpec("text", (8,), tuple(f"word {k}" for k in range(40))),
    )
    assert head.pointer.touched is not None
    x, zeros, ones = torch.randn(1, 2, 8), torch.zeros(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool)
    known, new = (
        head.pointer.preference(x, Signs(ones, zeros, zeros, zeros, torch.full((1, 2, 3), named)))
        for named in (2 ** len(NAMES) - 1, 0)
    )
    assert torch.equal(known, new)


def test_every_way_of_being_named_weighs_on_its_own() -> None:
    head = TextHead(
        ModelConfig(width=8, heads=2, mlp_ratio=2, tokens=2, text=TOUCHED),
        ObservationSpec("text", (8,), tuple(f"word {k}" for k in range(40))),
    )
    assert head.pointer.touched is not None
    with torch.no_grad():
        head.pointer.touched.bias.copy_(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    first = torch.tensor([[[5, 3, 9, 0, 4], [NEVER, NEVER, NEVER, NEVER, NEVER]]])
    named = named_by(first, torch.tensor([[4]]))
    zeros = torch.zeros(1, 1, 2)
    worth = head.pointer.preference(torch.randn(1, 1, 8), Signs(zeros == 0, zeros, zeros, zeros, named[:, None]))
    assert worth.tolist() == [[[2.0 + 8.0 + 16.0, 0.0]]]
