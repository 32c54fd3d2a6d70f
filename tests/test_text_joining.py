"""Recordings of one text world become one, and nothing that does not belong together does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")

from loopwm.cli import main
from loopwm.errors import UserError
from loopwm.text.joining import join
from loopwm.text.recording import TextEpisode, TextManifest, read_recording, write_recording

EPISODE = TextEpisode(("a", "b"), ("go",), (0.0, 1.0), True, "g/1", "t", "train", "gold", "do it")
MANIFEST = TextManifest("textworld", "loopwm collect textworld", {"textworld": "1.7.0"})


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    path = tmp_path / "gold.parquet"
    write_recording(path, [EPISODE, replace(EPISODE, game="g/2", split="test")], MANIFEST)
    return path


def another(gold: Path, episode: TextEpisode, manifest: TextManifest = MANIFEST) -> tuple[Path, Path]:
    path = gold.with_name("noisy.parquet")
    write_recording(path, [episode], manifest)
    return gold, path


def test_all_episodes_are_there_and_the_commands_that_recorded_them(gold: Path, capsys: pytest.CaptureFixture) -> None:
    noisy = replace(EPISODE, actor="noisy", actions=("wait",))
    sources = another(gold, noisy, replace(MANIFEST, command="loopwm collect textworld --actors noisy"))
    out = gold.with_name("both.parquet")
    assert main(["data", "join", *map(str, sources), "--out", str(out)]) == 0
    manifest, found = read_recording(out)
    assert found == [*read_recording(sources[0])[1], noisy]
    assert manifest.digest in capsys.readouterr().out
    first, second, last = manifest.command.split(" && ")
    assert (first, second) == ("loopwm collect textworld", "loopwm collect textworld --actors noisy")
    assert last.startswith("loopwm data join ")


@pytest.mark.parametrize(
    ("episode", "manifest", "message"),
    [
        (EPISODE, MANIFEST, "An episode of g/1 by gold is there twice"),
        (replace(EPISODE, game="g/2", actor="noisy"), MANIFEST, "g/2 is of the split test in one .* held out would be"),
        (
            replace(EPISODE, actor="noisy"),
            replace(MANIFEST, world="alfworld"),
            "differ in world: alfworld and textworld",
        ),
        (replace(EPISODE, actor="noisy"), replace(MANIFEST, versions={}), "differ in versions"),
    ],
    ids=["twice", "held-out", "world", "versions"],
)
def test_what_does_not_belong_together_is_refused(
    gold: Path, episode: TextEpisode, manifest: TextManifest, message: str
) -> None:
    sources, out = another(gold, episode, manifest), gold.with_name("both.parquet")
    with pytest.raises(UserError, match=message):
        join(sources[::-1] if "alfworld" in message else sources, out)
    assert not out.exists()


def test_an_existing_file_and_nothing_to_join_are_refused(gold: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match=r"gold\.parquet already exists"):
        join([gold], gold)
    assert main(["data", "join", "--out", str(gold.with_name("x.parquet"))]) == 2
    assert "name two or more text recordings" in capsys.readouterr().err
