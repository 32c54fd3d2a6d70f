"""What `loopwm data` says of text recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")

from loopwm.cli import main
from loopwm.text.recording import TextEpisode, TextManifest, write_recording

EPISODE = TextEpisode(("a room", "a hall"), ("go east",), (0.0, 1.0), True, "g/1", "Find", "train", "gold", "do it")
LONG = replace(EPISODE, observations=("a b c d",) * 4, actions=("go",) * 3, scores=(0.0,) * 4, terminated=False)


def recording(path: Path, *episodes: TextEpisode) -> str:
    write_recording(path, episodes, TextManifest("textworld", "loopwm collect textworld", {"textworld": "1.7.0"}))
    return str(path)


def cells(printed: str, leading: str) -> list[str]:
    """Of the row of a printed table that begins with `leading`."""
    row = next(line for line in printed.splitlines() if line.startswith(f"│ {leading} "))
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_what_is_recorded_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = replace(LONG, game="g/2", split="test", actor="noisy", task_type="Boil")
    path = recording(tmp_path / "a.parquet", EPISODE, replace(LONG, seed=3), held_out)
    assert main(["data", "inspect", path]) == 0
    told = capsys.readouterr().out
    assert cells(told, "train, gold")[1:] == ["1", "2", "4", "2", "3", "50%", "0.5"]
    assert cells(told, "test, noisy")[1:] == ["1", "1", "3", "3", "3", "0%", "0.0"]
    assert cells(told, "observation")[1:] == ["10", "3", "4", "4", "6"]
    assert cells(told, "Find")[1:] == ["2", "0", "0"] and cells(told, "Boil")[1:] == ["0", "0", "1"]
    assert main(["data", "validate", path]) == 0
    assert "is fine: 3 episodes (2 train, 1 test), 7 transitions" in capsys.readouterr().out


def test_all_that_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = replace(LONG, actions=("go", " ", "go"), split="validation")
    path = recording(tmp_path / "a.parquet", EPISODE, EPISODE, silent)
    assert main(["data", "validate", path]) == 1
    told = capsys.readouterr().err
    assert "episode 1 (g/1 by gold) is there twice." in told
    assert "episode 2 (g/1 by gold) has no words in action 1." in told
    assert "The game g/1 (train, validation) is in several splits" in told and "has 3 problem(s)" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "PATH", "x.h5"], "a text recording, which is not converted"),
        (["split", "PATH", "x"], "a text recording, which is not split"),
        (["inspect", "PATH", "--plot", "x.png"], "of which there is no drawing"),
    ],
)
def test_what_is_not_done_with_words_is_said(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = recording(tmp_path / "a.parquet", EPISODE)
    assert main(["data", *(path if word == "PATH" else word for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["a.parquet"]
