"""Replay noise: recorded episodes are played once more, and answers that differ are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from visits import visit

from loopwm.cli import main
from loopwm.errors import LoopwmError, UserError
from loopwm.text.benchmark.replaying import Replaying, read_noise, replay_noise, replayed
from loopwm.text.recording import TextEpisode

EPISODES = [visit(k, "validation", "pick" if k % 2 else "clean") for k in range(4)]


class Forgetful:
    """A room in which things that are on a shelf come in another order in game 1, and that game 3 has no more."""

    name, packages, patience = "alfworld", ("numpy",), 60.0

    def games(self) -> list[str]:
        return []

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        raise LoopwmError("Nobody plays here.")

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        number = int(game.rpartition("/")[2])
        if number == 3:
            raise LoopwmError(f"There is no game {game}.")
        answers = list(visit(number, "validation").observations[1:])
        if number == 1:
            answers[4] = "On the shelf 1, you see a pen 1, and a cd 2."
            answers[0] = "The drawer 1 is open."
        return answers

    def close(self) -> None:
        pass


def test_episodes_are_played_again_by_several_processes_and_differences_counted() -> None:
    calls: list[tuple[int, int]] = []
    again, left_out = replayed(partial(Replaying, Forgetful, EPISODES), EPISODES, 2, lambda *call: calls.append(call))
    assert sorted(again) == [0, 1, 2] and [one.job.game for one in left_out] == ["3"]
    assert "There is no game pick/3" in left_out[0].reason
    assert calls == [(done, 4) for done in range(5)]
    noise = replay_noise(EPISODES, again, {"pick": 3, "clean": 1}, resamples=50)
    assert {name: one.mean for name, one in noise.differs.by_type.items()} == {"clean": 0.0, "pick": 2 / 8}
    assert {name: one.mean for name, one in noise.unordered.by_type.items()} == {"clean": 0.0, "pick": 1 / 8}
    assert (noise.differs.micro.mean, noise.differs.micro.n, noise.games) == (2 / 24, 24, {"clean": 2, "pick": 1})
    assert noise.differs.mix is not None and noise.differs.mix.mean == pytest.approx(3 / 4 * 2 / 8)


def test_an_episode_that_ends_early_is_no_replay() -> None:
    longer = replace(EPISODES[0], **{
        name: (*getattr(EPISODES[0], name), value)
        for name, value in {"observations": "You wait.", "actions": "wait", "scores": 0.0}.items()
    })  # fmt: skip
    with pytest.raises(LoopwmError, match="clean/0 ended after 8 of 9 actions"):
        Replaying(Forgetful, [longer]).play("0", "expert", 0)
    with pytest.raises(UserError, match="None of the episodes could be played again"):
        replay_noise(EPISODES, {}, {})


def test_a_world_that_repeats_itself_has_no_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("textworld", reason="TextWorld's games need its engine")
    pytest.importorskip("pyarrow", reason="text recordings are Parquet files")
    data, out = tmp_path / "coins.parquet", tmp_path / "noise.json"
    words = ["--kind", "coin", "--level", "2", "--train", "0", "--test", "0", "--validation", "2"]
    assert main(["collect", "textworld", *words, "--out", str(data)]) == 0
    assert main(["benchmark", "replay", "--data", str(data), "--out", str(out)]) == 0
    assert "Played 2 episodes again" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["noise"]["differs"]["micro"]["mean"] == 0 and written["left_out"] == []
    assert written["noise"]["games"] == {"coin": 2}
    assert (
        read_noise(out, written["recordings"], "validation").differs.micro.n
        == written["noise"]["differs"]["micro"]["n"]
    )
    assert main(["benchmark", "replay", "--data", str(data), "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["benchmark", "replay", "--data", str(data), "--out", str(tmp_path / "no"), "--split", "test"]) == 2
    assert "has no test episode of gold or expert" in capsys.readouterr().err
    assert main(["benchmark", "repaly", "--data", str(data)]) == 2
    assert "There is nothing called 'repaly' to benchmark; choose rules or replay." in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is of another recording, coins\.parquet"):
        read_noise(out, {"coins.parquet": "0"}, "validation")
    with pytest.raises(UserError, match="is of the split validation, not of test"):
        read_noise(out, written["recordings"], "test")
    with pytest.raises(UserError, match="is not what loopwm benchmark replay writes"):
        read_noise(data, {}, "validation")
