"""Examples of answers: drawn by a seed, cut where they are long, with the words marked that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("sacrebleu", reason='the benchmark needs pip install "loopwm[text]"')

from toy_text import episodes

from loopwm.text.benchmark.examples import CUT, ExamplesConfig, Remembering, draw, shortened
from loopwm.text.benchmark.windows import WindowConfig, sample_windows
from loopwm.text.report.worked import marked
from loopwm.text.simulator import TextSimulator


def test_half_of_the_examples_are_right_and_a_seed_decides_which(toy_run: Path) -> None:
    windows = sample_windows(episodes(), WindowConfig(per_type=24))
    asked = Remembering(TextSimulator.from_run(toy_run))
    asked.predict(windows)
    known = asked.foreseen
    assert known is not None
    # Every third answer is made wrong, and all others right.
    texts = [[*w.targets[:-1], w.targets[-1] + " no" * (k % 3 == 0)] for k, w in enumerate(windows)]
    asked.foreseen = replace(known, texts=texts)

    def places(seed: int, count: int = 6) -> list[tuple[str, int]]:
        found = draw(windows, {"run": asked}, config=ExamplesConfig(count, 4, seed))
        assert (found.right, found.wrong) == (16, 8)
        rights = [one.answers["run"].right[-1] for one in found.windows]
        assert (sum(rights), len(rights)) == ((count // 2, count) if count <= 16 else (16, min(count, 24)))
        assert all(text.endswith(CUT) for one in found.windows for text in one.answers["run"].texts)
        return [(one.game, one.time) for one in found.windows]

    assert places(0) == places(0) != places(1)
    assert places(0, 30) == [(window.game, window.time) for window in windows]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_marked_words_are_those_that_differ(true: list[str], said: list[str]) -> None:
    first, second = marked(" ".join(true), " ".join(said))
    assert " ".join(piece.text for piece in first).split() == true
    assert " ".join(piece.text for piece in second).split() == said
    same = [[piece.text for piece in pieces if not piece.differs] for pieces in (first, second)]
    assert same[0] == same[1]
    assert any(piece.differs for piece in (*first, *second)) == (true != said)


def test_long_texts_are_cut_and_say_so() -> None:
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdefg", 6) == "abcdef" + CUT
