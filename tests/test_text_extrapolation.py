"""What would be read if numbers went on along a line is offered to a head that copies, where there is a line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, COUNTING, make
from toy_text import counting

from loopwm.errors import UserError
from loopwm.model.config import TextConfig
from loopwm.model.text.encoders import Memory, TextEncoder, remembered
from loopwm.model.text.extrapolation import APART, LINES, POINTS, Numerals, Passage, gone_on
from loopwm.model.text.head import TextHead
from loopwm.model.text.pointer import Signs, by_line, readable
from loopwm.model.world_model import WorldModel
from loopwm.presets import preset
from loopwm.text.benchmark.patterns import extrapolated, with_numbers, without_numbers
from loopwm.text.benchmark.windows import Context, Window
from loopwm.text.config import SimulatorConfig
from loopwm.text.corpus import text_windows
from loopwm.text.lines import Line
from loopwm.text.simulator import TextSimulator
from loopwm.text.vocabulary import Vocabulary
from loopwm.train.config import LossConfig
from loopwm.train.losses import visible_steps
from loopwm.train.text import TextDecoding, unrolled

WORDS = Vocabulary.of(["the block is down at of degrees: 7% of 12 (3)", "wait read"])
NUMERALS = Numerals.of(WORDS.words)


def words(text: str) -> list[int]:
    return WORDS.encode([text])[0]


def on(text: str, readings: int) -> list[str]:
    """Offered `text`, on a line of so many readings: 2 or 3, 4 or 5, or more."""
    return [text * (readings < 4), text * (4 <= readings < 6), text * (readings >= 6)]


def offered(readings: list[str], steps: list[int] | None = None, past: int = 0, ask: int | None = None) -> list[str]:
    """On the lines through answers to one action, at `steps`, or one by one from o_1 on."""
    steps = list(range(1, len(readings) + 1)) if steps is None else steps
    asked = steps[-1] if ask is None else ask
    told = [Passage(0, False, words("the block"))]
    told += [Passage(step, False, words(text)) for step, text in zip(steps, readings, strict=True)]
    told += [Passage(step, True, words("read" if step + 1 in steps or step == asked else "wait")) for step in range(75)]
    (found,) = gone_on([told], [[asked]], NUMERALS, past)
    assert all(action == (words("read") if text else []) for text, action in found)
    return [WORDS.decode(text) for text, _ in found]


@given(st.lists(st.tuples(st.booleans(), st.integers(-2000, 2000)), max_size=4), st.integers(0, 3))
def test_a_text_is_its_form_and_its_numbers(numbers: list[tuple[bool, int]], rest: int) -> None:
    """Of numbers that begin a word, and of others, which have no sign."""
    text = "block " + " ".join(f"of {value}%" if opens else f"({abs(value)})" for opens, value in numbers)
    tokens = words(text + " degrees" * rest)
    form, values = NUMERALS.apart(tokens)
    assert values == [value if opens else abs(value) for opens, value in numbers]
    assert NUMERALS.together(form, values) == tokens
    other, _ = NUMERALS.apart(words(text.replace("block", "the") + " degrees" * rest))
    assert form != other


def test_what_is_no_whole_number_stays_as_it_is() -> None:
    long = "of " + "9" * 400
    for text, values in (("at 0.05%", [0]), ("at 7:05", [7]), ("of " + "9" * 15, [10**15 - 1]), (long, [])):
        tokens = words(text)
        form, found = NUMERALS.apart(tokens)
        assert found == values and NUMERALS.together(form, found) == tokens
    assert offered(["5 of 3", f"6 {long}"]) == [""] * LINES


def test_what_cannot_be_written_is_not_offered() -> None:
    form, _ = NUMERALS.apart(words("block (3)"))
    assert NUMERALS.together(form, [-4]) == []
    unsigned = replace(NUMERALS, minus=-1)
    form, _ = unsigned.apart(words("block of 3"))
    assert unsigned.together(form, [-4]) == []


@given(
    st.lists(st.integers(-999, 999), max_size=3),
    st.integers(1, 20),
    st.floats(-9, 9),
    st.lists(st.integers(1, 3), min_size=23, max_size=23),
)
def test_lines_are_those_of_the_rules(before: list[int], many: int, slope: float, gaps: list[int]) -> None:
    """The rules of the benchmark go on with texts, by their own reading of numbers; here readings lie anywhere, and
    then on a line but for rounding."""
    steps = np.cumsum(gaps)[: len(before) + many].tolist()
    readings = [*before, *(round(40 + slope * step) for step in steps[len(before) :])]
    count = 1
    while count < min(len(readings), POINTS):
        latest = slice(-count - 1, None)
        fitted = np.polyval(np.polyfit(steps[latest], readings[latest], 1), steps[latest])
        apart = float(np.abs(fitted - readings[latest]).max())
        assume(abs(apart - APART) > 1e-6)
        if apart > APART:
            break
        count += 1
    event(f"{count} on the line")
    if len(set(readings[-count:])) < 2:
        assert offered(texts_of(readings), steps) == [""] * LINES
        return
    texts = texts_of(readings)
    line = extrapolated(list(zip(steps, texts, strict=True)), steps[-1] + 1, count)
    assert line is not None
    assert offered(texts, steps) == on(with_numbers(without_numbers(texts[0]), line), count)


def texts_of(readings: list[int]) -> list[str]:
    return [f"the block is at {value} degrees" for value in readings]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-500, 500)), min_size=2, max_size=20), st.integers(51, 60))
def test_a_line_has_least_squares(points: list[tuple[int, int]], at: int) -> None:
    times, values = [time for time, _ in points], [value for _, value in points]
    assume(len(set(times)) > 1)
    fit = np.polyfit(times, values, 1)
    line = Line.through(times, [[value] for value in values])
    assert line.at(at)[0] == pytest.approx(np.polyval(fit, at), abs=1e-6)
    assert line.furthest == pytest.approx(np.abs(np.polyval(fit, times) - values).max(), abs=1e-6)


def test_a_line_goes_through_the_latest_answers_of_one_form_alone() -> None:
    assert offered(["7%", "50 degrees", "60 degrees"]) == on("70 degrees", 2)
    assert offered(["50 degrees", "60 degrees", "7%"]) == [""] * LINES
    assert offered(["10 of 90", "20 of 85"]) == on("30 of 80", 2)
    # What lies between is counted in steps, not in readings.
    assert offered(["10%", "20%"], steps=[2, 4], ask=9) == on("50%", 2)
    assert offered(["10%", "20%"], steps=[2, 4], ask=5) == on("30%", 2)


def test_readings_have_to_lie_on_the_line_but_for_rounding() -> None:
    # 1.7 more every step, rounded.
    assert offered(["18%", "20%", "21%", "23%", "25%"]) == on("27%", 5)
    assert offered(["18%", "20%", "21%"]) == on("23%", 3)
    # What warms up ever more slowly: the last two, which always lie on a line.
    assert offered(["136%", "145%", "154%", "161%", "168%"]) == on("175%", 2)
    # One number on a line of all of them, the other not.
    assert offered(["10 of 90", "20 of 85", "30 of 20"]) == on("40 of -45", 2)


def test_what_was_read_before_a_line_began_does_not_break_it() -> None:
    # Put onto the plane once more.
    assert offered(["80%", "84%", "88%", "3%", "7%", "11%", "15%"]) == on("19%", 4)
    # What stands still now did not before.
    assert offered(["10%", "20%", "30%", "30%"]) == [""] * LINES
    assert offered(["2%", "3%", "90%", *(f"{5 * k}%" for k in range(7))]) == on("35%", 7)


def test_a_line_goes_through_seventeen_readings_at_most() -> None:
    # All lie on one line, which stands at 9.47 then; that of the latest seventeen stands at 9.54.
    readings = [0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8, 9, 9]
    assert offered([f"{value}%" for value in readings]) == on("10%", 17)
    late = ["0%"] * 3 + ["1%"] * 18
    assert offered(late[:16])[2] == "1%" and offered(late) == [""] * LINES


@pytest.mark.parametrize(("readings", "kind"), [(2, 0), (3, 0), (4, 1), (5, 1), (6, 2), (9, 2)])
def test_lines_are_told_apart_by_how_many_readings_lie_on_them(readings: int, kind: int) -> None:
    found = offered([f"{3 * k}%" for k in range(readings)])
    assert [place for place, text in enumerate(found) if text] == [kind]


@pytest.mark.parametrize(
    "readings", [[], ["7%"], ["7%", "7%"], ["block", "block"]], ids=["nothing", "one", "the same", "no number"]
)
def test_without_a_line_nothing_is_offered(readings: list[str]) -> None:
    assert offered(readings, ask=5) == [""] * LINES


def test_no_line_goes_through_a_past_of_which_only_the_order_is_known() -> None:
    readings, steps = ["10%", "20%", "31%"], [1, 2, 3]
    assert offered(readings, steps, past=1) == offered(readings, steps) == on("41%", 3)
    assert offered(readings, steps, past=2) == on("42%", 2)
    assert offered(readings, steps, past=3) == [""] * LINES


def test_the_task_before_an_observation_is_no_part_of_it() -> None:
    opening = [WORDS.index("<task>"), *words("the 12 block"), WORDS.index("<seen>")]
    told = [
        Passage(0, True, words("read")),
        Passage(1, False, [*opening, *words("5%")]),
        Passage(1, True, words("read")),
    ]
    told += [Passage(2, False, words("6%")), Passage(2, True, words("read"))]
    assert [WORDS.decode(text) for text, _ in gone_on([told], [[2]], NUMERALS)[0]] == on("7%", 2)


def shown(
    model: WorldModel, visible: list[bool], texts: torch.Tensor | None = None, lines: torch.Tensor | None = None
) -> dict[int, set[str]]:
    """What is offered at every step of a game that counts, of which some observations are seen, or of other `texts`."""
    windows = text_windows(COUNTING, np.array([0]), np.array([0]), 7)
    windows = windows if texts is None else replace(windows, observations=texts)
    memory = unrolled(model, windows, torch.tensor([visible]), lines=lines).memory
    found: dict[int, set[str]] = {}
    for step in range(7):
        for line in range(1, LINES + 1):
            tokens = memory.tokens[(memory.step == step) & (memory.line == line)]
            if len(tokens):
                found.setdefault(step, set()).add(CORPUS.vocabulary.decode(tokens.tolist()))
    return found


@torch.no_grad()
def test_training_offers_what_goes_on_from_what_was_seen() -> None:
    model = make(guided=True)
    # o_2 and o_3 say 7 and 8; what a_3 ... a_6 would be answered lies on that line, as nothing else is seen.
    expected = {3 + k: {f"The counter says {9 + k}."} for k in range(4)}
    assert shown(model, [True] * 4 + [False] * 3) == expected
    # o_2 and o_5 say 7 and 11.
    expected = {5: {"The counter says 12."}, 6: {"The counter says 14."}}
    assert shown(model, [True, True, True, False, False, True, False]) == expected
    assert shown(model, [True] * 3 + [False] * 4) == {}
    assert shown(make(), [True] * 7) == {}


def offered_in(memory: Memory) -> list[bool]:
    """Which windows have words of a line to look back at."""
    owners = torch.arange(len(memory.window)).repeat_interleave(memory.window)
    return [bool((memory.line[owners == window] > 0).any()) for window in range(len(memory.window))]


@torch.no_grad()
def test_training_offers_lines_to_a_share_of_the_windows() -> None:
    """Two copies of one window: either alone, both, or neither."""
    model = make(guided=True)
    one = text_windows(COUNTING, np.array([0, 0]), np.array([0, 0]), 7)
    seen = torch.ones(2, 7, dtype=torch.bool)
    for chosen in ([True, False], [False, True], [True, True], [False, False]):
        assert offered_in(unrolled(model, one, seen, lines=torch.tensor(chosen)).memory) == chosen
    with pytest.raises(UserError, match=r"loss\.lines is a share in \[0, 1\], got 1\.5"):
        LossConfig(lines=1.5)


@torch.no_grad()
@pytest.mark.parametrize("guided", [True, False])
def test_windows_that_are_offered_lines_are_drawn_with_those_that_are_seen(guided: bool) -> None:
    """From the stream that checkpoints keep; a model without lines draws nothing for them."""
    model, count = make(guided=guided), 40
    windows = text_windows(COUNTING, np.zeros(count, dtype=int), np.zeros(count, dtype=int), 7)
    decoding, draws = TextDecoding(LossConfig(lines=0.3, observed=1.0), 1.0), torch.Generator().manual_seed(5)
    decoding.unroll(model, windows, None, draws)
    again = torch.Generator().manual_seed(5)
    visible_steps(count, 7, 1.0, again)
    expected = (torch.rand(count, generator=again) < 0.3).tolist() if guided else [False] * count
    assert decoding._memory is not None and offered_in(decoding._memory) == expected
    assert torch.equal(draws.get_state(), again.get_state()) and (not guided or 3 < sum(expected) < 25)


def test_a_model_that_is_never_offered_lines_in_training_is_refused() -> None:
    config = preset("text").config
    model = replace(config.model, text=replace(config.model.text, extrapolate=True))
    with pytest.raises(UserError, match=r"which no window learns with loss\.lines 0"):
        replace(config, model=model, loss=replace(config.loss, lines=0.0))


@torch.no_grad()
def test_offers_are_readable_when_they_are_made_alone() -> None:
    then, line = torch.tensor([[2, 2, 3, 1]]), torch.tensor([[0, 1, 2, 0]])
    for step, expected in (
        (1, [False, False, False, True]),
        (2, [True, True, False, True]),
        (3, [True, False, True, True]),
    ):
        assert readable(then, line, torch.tensor([[step]])).tolist() == [expected]
    assert by_line(line).tolist() == [[[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]]


@torch.no_grad()
def test_what_comes_later_changes_no_offer() -> None:
    model, windows = make(guided=True), text_windows(COUNTING, np.array([0]), np.array([0]), 7)
    other = windows.observations.clone()
    # o_5 says 11; it is an offer for a_5 and later ones that has to change.
    one, two = (CORPUS.vocabulary.encode([text])[0][1] for text in ("11", "12"))
    assert (other[0, 5] == one).sum() == 1
    other[0, 5][other[0, 5] == one] = two
    first, second = (shown(model, [True] * 7, one) for one in (windows.observations, other))
    assert [first[step] == second[step] for step in (3, 4, 5, 6)] == [True, True, False, False]


@torch.no_grad()
def test_a_head_that_trusts_lines_counts_on() -> None:
    """Of a model that has learned nothing but to copy, and to prefer what lies on a line."""
    model = make(guided=True)
    head = model.observation_head
    assert (
        isinstance(head, TextHead) and head.pointer.extrapolated is not None and isinstance(model.encoder, TextEncoder)
    )
    for layer, bias in ((head.pointer.copy, 30.0), (head.pointer.extrapolated, 30.0), (head.pointer.trust, 0.0)):
        assert layer is not None
        layer.weight.zero_()
        layer.bias.fill_(bias)
    head.pointer.sharpness.zero_()
    texts = counting().observations
    context = Context("", texts[:4], ("go", "read counter", "read counter"), "")
    window = Window(0, 3, "toy", "Find", context, ("read counter",) * 4, texts[4:])
    found = TextSimulator(model, SimulatorConfig(decode=False)).foresee([window]).texts[0]
    # It cannot end, as there is no end to copy.
    assert [answer.split()[3] for answer in found] == ["9.", "10.", "11.", "12."]


@torch.no_grad()
def test_before_anything_is_learned_a_line_is_worth_as_much_as_what_was_read() -> None:
    model = WorldModel(
        make(guided=True).config, CORPUS.observation, CORPUS.action, CORPUS.statistics(CORPUS.split("train"))
    )
    head = model.observation_head
    assert isinstance(head, TextHead) and head.expectation is not None and isinstance(model.encoder, TextEncoder)
    x, zeros, ones = torch.randn(1, 2, 24), torch.zeros(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool)
    lines = by_line(torch.tensor([[0, 1, LINES]]))
    plain, marked = (Signs(ones, zeros, zeros, zeros, zeros.long(), one) for one in (torch.zeros_like(lines), lines))
    assert torch.equal(head.pointer.preference(x, plain), head.pointer.preference(x, marked))
    states = torch.randn(1, 3, 24)
    assert torch.equal(head.expectation(states, plain), head.expectation(states, marked))
    assert model.encoder.lines is not None and not model.encoder.lines.any()


@torch.no_grad()
def test_texts_of_a_memory_are_those_that_were_told() -> None:
    windows = text_windows(CORPUS, np.array([8, 6]), np.array([4, 0]), 5, np.array([True, False]))
    found = remembered(unrolled(make(), windows, torch.ones(2, 5, dtype=torch.bool)).memory)
    for row, told in enumerate(found):
        for done, source in ((False, windows.observations[:, :-1]), (True, windows.actions)):
            expected = [(k, text[text != 0].tolist()) for k, text in enumerate(source[row]) if (text != 0).any()]
            assert [(one.step, one.words) for one in told if one.done is done] == expected


def test_a_head_that_cannot_repeat_is_offered_nothing() -> None:
    with pytest.raises(UserError, match=r"model\.text\.extrapolate offers texts to repeat; .* must be copy"):
        TextConfig(head="bottleneck", extrapolate=True)
