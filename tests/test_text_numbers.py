"""Digits know the value of their number."""

from __future__ import annotations

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.model.text.numbers import NumberValues, digits, values
from loopwm.model.text.packing import flattened
from loopwm.text.corpus import padded
from loopwm.text.vocabulary import Vocabulary

WORDS = ("drawer", "at", "the", "plane", "a1b")
VOCABULARY = Vocabulary.of([" ".join(WORDS)])
TEXTS = st.lists(
    st.lists(
        st.one_of(st.sampled_from(WORDS), st.integers(0, 99999).map(str), st.just("12%"), st.just("3.5")), max_size=8
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_every_digit_has_the_value_that_reading_the_text_gives(texts: list[list[str]]) -> None:
    lines = [" ".join(words) for words in texts]
    tokens = padded([[torch.tensor(row, dtype=torch.int32).numpy() for row in VOCABULARY.encode(lines)]])
    found = flattened(tokens)
    value, known = values(found, digits(VOCABULARY.words))
    expected = [int(number) % 1000 for line in lines for number in re.findall(r"\d+", line) for _ in number]
    assert value[known].tolist() == expected
    assert not value[~known].any()


def test_going_on_by_so_much_is_a_rotation_whatever_the_value() -> None:
    layer = NumberValues(VOCABULARY.words, 6)
    torch.nn.init.eye_(layer.out.weight)

    def phases(number: int) -> torch.Tensor:
        tokens = padded([[torch.tensor(VOCABULARY.encode([str(number)])[0], dtype=torch.int32).numpy()]])
        pairs = layer(flattened(tokens))[-1]
        return torch.complex(pairs[:3], pairs[3:])

    with torch.no_grad():
        turned = [phases(n + 7) / phases(n) for n in (0, 3, 58, 411)]
    for other in turned[1:]:
        torch.testing.assert_close(turned[0], other, atol=1e-4, rtol=0)
