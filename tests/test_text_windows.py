"""Windows show what a track allows and nothing of the future; samples are frozen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UserError
from loopwm.text.benchmark.windows import (
    MEMORY,
    TRACKS,
    Track,
    WindowConfig,
    cut,
    find_track,
    hold_out,
    refuse_overlap,
    sample_windows,
)
from loopwm.text.recording import TextEpisode


def episode(length: int, game: str = "boil/1", task_type: str = "Boil", split: str = "validation") -> TextEpisode:
    """An episode whose texts say which step they are of."""
    return TextEpisode(
        observations=tuple(f"{game} o{k}" for k in range(length + 1)),
        actions=tuple(f"{game} a{k}" for k in range(length)),
        scores=(0.0,) * (length + 1),
        terminated=True,
        game=game,
        task_type=task_type,
        split=split,
        actor="gold",
        description="boil water",
        initial="all rooms",
    )


def number(text: str) -> int:
    """Which step a text of `episode` is of."""
    return int(text.split()[-1][1:])


@given(length=st.integers(1, 40), time=st.integers(0, 40), track=st.sampled_from(list(TRACKS.values())))
def test_a_window_asks_for_what_comes_next_and_shows_nothing_of_it(length: int, time: int, track: Track):
    if time > length - track.steps:
        with pytest.raises(UserError, match="cannot begin"):
            cut(episode(length), 0, time, track)
        return
    window = cut(episode(length), 0, time, track)
    assert [number(text) for text in window.actions] == list(range(time, time + track.steps))
    assert [number(text) for text in window.targets] == list(range(time + 1, time + track.steps + 1))
    seen = [number(text) for text in window.context.observations]
    memory = time if track.memory is None else min(track.memory, time)
    assert seen == list(range(time - memory, time + 1))
    assert [number(text) for text in window.context.actions] == seen[:-1]
    assert window.context.now == window.context.observations[-1]
    assert bool(window.context.initial) == track.initial


@given(time=st.integers(0, 20), track=st.sampled_from(list(TRACKS.values())))
def test_the_context_does_not_depend_on_what_happens_later(time: int, track: Track):
    known = episode(30)
    other = replace(
        known,
        observations=known.observations[: time + 1] + ("else",) * (30 - time),
        actions=known.actions[:time] + ("other",) * (30 - time),
    )
    assert cut(known, 0, time, track).context == cut(other, 0, time, track).context


def test_tracks_are_those_of_the_protocol():
    assert {name: (track.memory, track.initial, track.steps) for name, track in TRACKS.items()} == {
        "markov": (0, False, 5),
        "history": (16, False, 5),
        "full": (None, True, 5),
        "one-step": (16, False, 1),
        "one-step-full": (None, True, 1),
    }
    assert MEMORY == 16
    with pytest.raises(UserError, match=r"no track 'memory'; choose one of markov, history"):
        find_track("memory")


def several() -> list[TextEpisode]:
    """Two task types, one of them with hardly any windows."""
    boil = [episode(20, f"boil/{k}") for k in range(6)]
    return [*boil, episode(6, "find/1", "Find"), episode(30, "boil/9", split="train")]


def test_a_sample_is_the_same_again_and_does_not_depend_on_the_order_of_episodes():
    config = WindowConfig(per_type=10)
    there = sample_windows(several(), config)
    back = sample_windows(several()[::-1], config)
    assert there == sample_windows(several(), config)
    assert {(w.game, w.time) for w in there} == {(w.game, w.time) for w in back}
    other = sample_windows(several(), replace(config, seed=1))
    assert {(w.game, w.time) for w in there} != {(w.game, w.time) for w in other}


def test_a_sample_takes_as_many_of_each_type_as_asked_for_or_as_there_are():
    windows = sample_windows(several(), WindowConfig(per_type=10))
    assert [window.task_type for window in windows].count("Boil") == 10
    assert [window.task_type for window in windows].count("Find") == 2
    everything = sample_windows(several(), WindowConfig(per_type=0))
    assert len(everything) == 6 * 16 + 2
    chosen = {(window.game, window.time) for window in windows}
    more = {(window.game, window.time) for window in sample_windows(several(), WindowConfig(per_type=20))}
    assert chosen < more


def test_a_window_says_which_episode_it_is_of():
    episodes = several()
    for window in sample_windows(episodes, WindowConfig(per_type=0)):
        assert episodes[window.episode].game == window.game


def test_windows_of_trained_games_are_refused():
    windows = sample_windows(several(), WindowConfig())
    refuse_overlap(windows, [episode(9, "boil/77", split="train")])
    with pytest.raises(UserError, match=r"1 of the games asked about are among the training episodes, such as boil/3;"):
        refuse_overlap(windows, [episode(9, "boil/3", split="train")])


def test_games_are_held_out_whole_and_in_about_the_share_asked_for():
    episodes = [episode(5, f"pick/{k // 2}", "pick", "train") for k in range(2000)]
    held = hold_out(episodes, 0.08)
    split_of = {}
    for one in held:
        assert split_of.setdefault(one.game, one.split) == one.split
    share = sum(one.split == "validation" for one in held) / len(held)
    assert share == pytest.approx(0.08, abs=0.03)
    assert [one.split for one in hold_out(episodes, 0.08)] == [one.split for one in held]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: WindowConfig(track="far"), "no track 'far'"),
        (lambda: WindowConfig(split="dev"), "no split 'dev'; choose one of train, validation, test"),
        (lambda: WindowConfig(per_type=-1), "-1 windows"),
        (lambda: hold_out([episode(5)], 1.5), "share of 1.5"),
        (lambda: sample_windows([episode(4)], WindowConfig()), "no window of 5 actions: 1 of the 1 episodes"),
        (lambda: sample_windows([episode(9)], WindowConfig(split="test")), "0 of the 1 episodes are of the split test"),
        (lambda: sample_windows([episode(9)], WindowConfig(actors=("noisy",))), "by noisy"),
        (
            lambda: sample_windows([replace(episode(9), initial="")], WindowConfig(track="full")),
            "'full' shows the complete initial state, which the episode of boil/1 does not have",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_sentence(ask, words: str):
    with pytest.raises(UserError, match=words) as refusal:
        ask()
    assert "\n" not in str(refusal.value)
