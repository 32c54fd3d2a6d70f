"""An episode's split follows from its content: the rest of the store, and its place in it, do not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.data.episode import Episode
from loopwm.data.split import assign, members
from loopwm.data.store import Store, write_store
from loopwm.errors import UserError

FINGERPRINTS = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=40)


@given(FINGERPRINTS, st.randoms())
def test_reordering_and_appending_move_no_episode(fingerprints: list[bytes], random):
    splits = dict(zip(fingerprints, assign(fingerprints), strict=True))
    shuffled = [*fingerprints, *fingerprints[:3]]
    random.shuffle(shuffled)
    assert assign(shuffled).tolist() == [splits[fingerprint] for fingerprint in shuffled]


@given(FINGERPRINTS)
def test_every_episode_is_in_exactly_one_split(fingerprints: list[bytes]):
    everyone = np.concatenate([members(fingerprints, split) for split in ("train", "validation", "test")])
    assert sorted(everyone.tolist()) == list(range(len(fingerprints)))


def test_the_shares_are_80_10_10():
    generator = np.random.default_rng(0)
    fingerprints = [
        Episode(generator.normal(size=(2, 1)), np.zeros((1, 1)), np.zeros(1), False).fingerprint for _ in range(5000)
    ]
    shares = [len(members(fingerprints, split)) / 5000 for split in ("train", "validation", "test")]
    # Four standard deviations of a binomial draw.
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=4 * np.sqrt(0.16 / 5000))


def test_the_fingerprint_depends_on_what_happened_only():
    def episode(seed: int = 1, label: float = 0.0, ending: bool = False, action: float = 0.0) -> Episode:
        return Episode(
            np.ones((3, 2), np.float32),
            np.full((2, 1), action, np.float32),
            np.zeros(2, np.float32),
            ending,
            {"effort": np.full(2, label, np.float32)},
            seed,
        )

    assert episode().fingerprint == episode(seed=2, label=5.0).fingerprint
    assert len({one.fingerprint for one in (episode(), episode(ending=True), episode(action=1.0))}) == 3


def test_a_store_rewritten_in_another_order_splits_alike(billiards_store: Path, tmp_path: Path):
    order = np.random.default_rng(0).permutation(60)
    with Store.open(billiards_store) as store:
        write_store(tmp_path / "shuffled.h5", (store.episode(int(i)) for i in order), store.meta)
        with Store.open(tmp_path / "shuffled.h5") as shuffled:
            for split in ("train", "validation", "test"):
                assert set(order[shuffled.split(split)]) == set(store.split(split))
            assert shuffled.digest != store.digest


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="no split called 'valid'; choose one of: train, validation, test"):
        members([b"0" * 16], "valid")  # type: ignore[arg-type]
