"""Names that windows tell otherwise: spelled out, the texts stay the same; renamed, only the names do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_text import episodes

from loopwm.data.windows import Windows
from loopwm.errors import UserError
from loopwm.presets import preset
from loopwm.text import names as names_module
from loopwm.text.corpus import TextCorpus
from loopwm.text.names import Names
from loopwm.text.recording import TextManifest
from loopwm.text.sampling import TextSampler
from loopwm.text.vocabulary import SPACE, Vocabulary
from loopwm.train.config import TrainConfig
from loopwm.train.data import training_data

CORPUS = TextCorpus.of(episodes(), TextManifest("scienceworld", "toy"))
TRAIN = CORPUS.split("train")


FEW = 0.3
"""Few enough to be a name in a world of a handful of words."""


@pytest.fixture(autouse=True)
def a_small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "RARE", FEW)


def drawn(spell: float, batch: int = 40, rename: float = 0.0, initial: float = 0.3) -> Windows:
    return TextSampler(CORPUS, TRAIN, 5, initial, spell, rename=rename).draw(2, batch, 4)


def texts(windows: Windows) -> list[list[str]]:
    """All that is said and done in each window."""
    return [
        [CORPUS.vocabulary.decode(text) for text in (*seen, *done)]
        for seen, done in zip(windows.observations.tolist(), windows.actions.tolist(), strict=True)
    ]


@pytest.mark.parametrize("word", ["quokka", "A", "axolotl"])
def test_a_word_is_spelled_as_if_it_were_unknown(word: str) -> None:
    known, unknown = Vocabulary.of([f"a {word} (here)"]), Vocabulary.of(["12 (!)"])
    index = known.words.index(SPACE + word)
    as_letters = [known.words[piece] for piece in known.spelled(index)]
    assert as_letters == [unknown.words[piece] for piece in unknown.encode([word])[0]]
    assert known.decode(known.spelled(index)) == word


def test_what_is_no_word_stays_as_it_is() -> None:
    vocabulary = CORPUS.vocabulary
    for index, word in enumerate(vocabulary.words):
        if not word.removeprefix(SPACE).isalpha():
            assert vocabulary.spelled(index) == [index]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_spelled_windows_say_the_same(share: float) -> None:
    # Which texts of a long past are told depends on the tokens that they begin with, as it does in use.
    assert texts(drawn(share, initial=0.0)) == texts(drawn(0.0, initial=0.0))
    assert drawn(share).observations.shape[-1] > drawn(0.0).observations.shape[-1]


def test_names_are_the_words_of_few_texts() -> None:
    own, words = Names.of(CORPUS, TRAIN), CORPUS.vocabulary.words
    rows = [int(CORPUS.ep_offset[e]) + k for e in TRAIN for k in range(int(CORPUS.ep_len[e]) + 1)]
    held = [set(text.tolist()) for row in rows for text in (CORPUS.observations[row], CORPUS.actions[row])]
    for index, word in enumerate(words):
        count = sum(index in text for text in held)
        bare = word.removeprefix(SPACE)
        is_name = bare.isalpha() and len(bare) > 1 and 0 < count < FEW * len(held)
        assert (own.name[index] >= 0) == is_name, word
    assert 10 < (own.name >= 0).sum() < len(words)


def test_a_window_spells_a_name_everywhere_or_nowhere() -> None:
    windows = drawn(0.5, 200)
    names = np.flatnonzero(Names.of(CORPUS, TRAIN).name >= 0)
    both = shares = 0
    for row in range(200):
        tokens = np.concatenate([windows.observations[row].ravel(), windows.actions[row].ravel()])
        said = " ".join(texts(windows[row : row + 1])[0]).replace(",", " ").replace(".", " ").split()
        for name in names:
            word = CORPUS.vocabulary.words[name].removeprefix(SPACE)
            if word in said:
                both += 1
                shares += name in tokens
    # Of the names that occur, about half are still words.
    assert both > 100 and 0.4 < shares / both < 0.6


def test_spelled_names_leave_no_word_of_them_behind() -> None:
    own = Names.of(CORPUS, TRAIN)
    text = CORPUS.observations[int(CORPUS.ep_offset[TRAIN[0]])]
    held = own.name[text]
    for telling in own.draw([[]] * 50, 0.5, 0.0, np.random.default_rng(0)):
        kept = own.name[telling(text)]
        assert set(kept[kept >= 0]) == {name for name in held[held >= 0] if not telling.spelled[name]}


def test_renamed_windows_differ_in_names_alone_and_one_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # In a world of two things both are spoken of all the time.
    monkeypatch.setattr(names_module, "RARE", 1.0)
    before, after = texts(drawn(0.0, 200)), texts(drawn(0.0, 200, rename=0.5))
    pairs = set()
    for recorded, told in zip(before, after, strict=True):
        calls: dict[str, str] = {}
        for one, other in zip(recorded, told, strict=True):
            words = [text.replace(".", " .").replace(":", " :").split() for text in (one, other)]
            for word, said in zip(*words, strict=True):
                assert calls.setdefault(word, said) == said
        assert len(set(calls.values())) == len(calls)
        pairs |= {(word, said) for word, said in calls.items() if word != said}
    # What actions speak of; what is done is called what it is.
    assert pairs == {("box", "counter"), ("counter", "box")}
    changed = np.mean([one != other for one, other in zip(before, after, strict=True)])
    assert 0.2 < changed < 0.8


def test_what_an_answer_speaks_of_is_renamed_with_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "RARE", 1.0)
    met = set()
    for seen, done in zip(*(row.tolist() for row in told_and_done(drawn(0.0, 200, rename=1.0))), strict=True):
        for action, answer in zip(done, seen[1:], strict=True):
            said, heard = CORPUS.vocabulary.decode(action), CORPUS.vocabulary.decode(answer)
            met.add(said)
            if said == "read box":
                assert "The box says" in heard
            if said == "open counter":
                assert heard.endswith("The counter is now open.")
    assert {"read box", "open counter"} <= met


def told_and_done(windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    return windows.observations, windows.actions


def test_nothing_else_is_drawn_where_nothing_is_renamed() -> None:
    plain, renamed = drawn(0.5), drawn(0.5, rename=1e-9)
    assert torch.equal(plain.observations, renamed.observations) and torch.equal(plain.start, renamed.start)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("spell", "is a share"),
        ("rename", "is a share"),
        ("initial", "is a share"),
        ("changes", "is a share"),
        ("balance", "be in"),
    ],
)
def test_what_is_for_texts_alone_and_impossible_shares_are_refused(
    billiards_store: Path, option: str, said: str
) -> None:
    above: dict[str, Any] = {option: 1.5}
    with pytest.raises(UserError, match=rf"train\.{option} (must )?{said}"):
        TrainConfig(**above)
    little: dict[str, Any] = {option: 0.1}
    config = preset("debug").config
    with pytest.raises(UserError, match=rf"train\.{option} is for texts"):
        training_data(replace(config, data=billiards_store, train=replace(config.train, **little)))
