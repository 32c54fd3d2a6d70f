"""Text recordings: nothing is lost, and nothing damaged is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.errors import UserError
from loopwm.text.recording import TextEpisode, TextManifest, is_recording, read_recording, write_recording

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")

WORDS = st.text(max_size=12)


@st.composite
def episodes(draw: st.DrawFn) -> TextEpisode:
    """Any episode, with looks and inventories or without."""
    length = draw(st.integers(1, 4))

    def rows(extra: int) -> tuple[str, ...]:
        return tuple(draw(st.lists(WORDS, min_size=length + extra, max_size=length + extra)))

    with_look = draw(st.booleans())
    return TextEpisode(
        observations=rows(1),
        actions=rows(0),
        scores=tuple(float(v) for v in draw(st.lists(st.integers(-9, 99), min_size=length + 1, max_size=length + 1))),
        terminated=draw(st.booleans()),
        game=draw(WORDS),
        task_type=draw(WORDS),
        split=draw(st.sampled_from(["train", "validation", "test"])),
        actor="gold",
        description=draw(WORDS),
        initial=draw(WORDS),
        looks=rows(1) if with_look else (),
        inventories=rows(1) if with_look else (),
        seed=draw(st.integers(-1, 2**62)),
    )


@settings(max_examples=30, deadline=None)
@given(some=st.lists(episodes(), min_size=1, max_size=4))
def test_what_is_written_is_read_again(some: list[TextEpisode], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "a.parquet"
    written = write_recording(path, some, TextManifest("textworld", "loopwm collect textworld"))
    manifest, read = read_recording(path)
    assert manifest == written and len(manifest.digest) == 32
    assert read == some
    assert is_recording(path)


def one(path: Path, description: str = "do it") -> TextManifest:
    """A recording of one episode."""
    episode = TextEpisode(("a", "b"), ("go",), (0.0, 1.0), True, "g", "t", "train", "gold", description)
    return write_recording(path, [episode], TextManifest("textworld", "c"))


def test_digests_tell_recordings_apart_by_what_was_read(tmp_path: Path) -> None:
    same, again = one(tmp_path / "a.parquet"), one(tmp_path / "b.parquet")
    other = one(tmp_path / "c.parquet", description="do that")
    assert same.digest == again.digest != other.digest


def test_a_changed_word_is_noticed(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    one(path)
    table = pq.read_table(path)
    column = table.column_names.index("observation")
    changed = table.set_column(column, "observation", [["a", "c"]])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UserError, match="digest differs"):
        read_recording(path)


def test_truncated_missing_and_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    one(path)
    with pytest.raises(UserError, match="already exists"):
        one(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="may be truncated"):
        read_recording(path)
    assert not is_recording(path)
    with pytest.raises(UserError, match="There is no recording"):
        read_recording(tmp_path / "b.parquet")
    with pytest.raises(UserError, match="none was given"):
        write_recording(tmp_path / "c.parquet", [], TextManifest("textworld", "c"))


@pytest.mark.parametrize(
    ("observations", "scores", "looks", "split", "words"),
    [
        (("a",), (0.0, 0.0), (), "train", "2 are needed, one more"),
        (("a", "b"), (0.0,), (), "train", "1 scores"),
        (("a", "b"), (0.0, 0.0), ("x",), "train", "1 looks"),
        (("a", "b"), (0.0, 0.0), (), "dev", "split 'dev'"),
    ],
)
def test_episodes_that_do_not_fit_together_are_refused(
    observations: tuple[str, ...], scores: tuple[float, ...], looks: tuple[str, ...], split: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        TextEpisode(observations, ("go",), scores, True, "g", "t", split, "gold", "", looks=looks)
    with pytest.raises(UserError, match="no action"):
        TextEpisode(("a",), (), (0.0,), True, "g", "t", "train", "gold", "")
