"""Several worlds as one: padded to the same shapes, each in its own standard deviations, marked.

For the question whether one model can learn them all. Written are `mixed.h5` with every episode and, for comparison,
one store per world with the same episodes in the same form, but without the entities that only fill up the set: a model
of one world need not compute them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loopwm.data.cache import open_memmap
from loopwm.data.episode import Episode
from loopwm.data.meta import StoreMeta
from loopwm.data.statistics import Statistics, compute_statistics
from loopwm.data.store import Store, write_store
from loopwm.errors import UserError
from loopwm.files import refuse_existing
from loopwm.spaces import PRESENT, ActionSpec, ObservationSpec

MIXED = "mixed.h5"
DIFFICULTY = "difficulty"


@dataclass(frozen=True)
class MixConfig:
    """What goes into the mixture.

    Attributes:
        sources: recordings of worlds that observe entities or a vector and take continuous actions.
        out: the new folder.
        steps: transitions of each, at most; 0 takes as many of each as the shortest recording has.
    """

    sources: tuple[Path, ...]
    out: Path = Path("data/mixed")
    steps: int = 0

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise UserError(f"A mixture needs at least two recordings, got {len(self.sources)}.")
        if self.steps < 0:
            raise UserError(f"steps must not be negative, got {self.steps}.")

    @property
    def command(self) -> str:
        """What to type to get this mixture."""
        words = ["loopwm", "data", "mix", *map(str, self.sources), "--out", str(self.out), "--steps", str(self.steps)]
        return shlex.join(words)


@dataclass(frozen=True)
class Layout:
    """Where everything of one world goes in the common form.

    Attributes:
        names: of the worlds. world: which of them this is.
        entities: of this world.
        features, actions: of the common form, without the marks.
    """

    names: tuple[str, ...]
    world: int
    entities: int
    features: int
    actions: int

    @property
    def observation(self) -> ObservationSpec:
        """Entities (M, F + 1 + W): features, whether this is an entity at all, one mark per world."""
        names = tuple(f"feature{i}" for i in range(self.features))
        marks = (PRESENT, *(f"is {name}" for name in self.names))
        return ObservationSpec("entities", (self.entities, self.features + len(marks)), names + marks)

    @property
    def action(self) -> ActionSpec:
        """(A,) numbers in the standard deviations of their world; unbounded."""
        return ActionSpec("continuous", self.actions, (-np.inf,) * self.actions, (np.inf,) * self.actions)

    def observations(self, seen: np.ndarray, statistics: Statistics) -> np.ndarray:
        """(L+1, *S) of this world -> (L+1, M, F + 1 + W). Numbers that never change within an episode are kept."""
        seen = seen if seen.ndim == 3 else seen[:, None]
        changes = statistics.observation_changes
        scaled = (seen - np.where(changes, statistics.observation_mean, 0.0)) / np.where(
            changes, statistics.observation_std, 1.0
        )
        padded = np.zeros((len(seen), *self.observation.shape), np.float32)
        padded[:, :, : seen.shape[2]] = scaled
        padded[:, :, self.features] = 1.0
        padded[:, :, self.features + 1 + self.world] = 1.0
        return padded

    def acted(self, actions: np.ndarray, statistics: Statistics) -> np.ndarray:
        """(L, A of this world) -> (L, A)."""
        padded = np.zeros((len(actions), self.actions), np.float32)
        padded[:, : actions.shape[1]] = (actions - statistics.action_mean) / statistics.action_std
        return padded


def mix(config: MixConfig, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the mixture and its parts into `config.out`; returns the mixture.

    Args:
        progress: called with (stores written, stores in total).

    Raises:
        UserError: a recording cannot be read or cannot be mixed, two are of one world, or something is there already.
    """
    metas, lengths = [], []
    for source in config.sources:
        with Store.open(source) as store:
            metas.append(store.meta)
            lengths.append(store.num_transitions)
    for source, meta in zip(config.sources, metas, strict=True):
        _check(source, meta)
    names = tuple(part_name(meta.world) for meta in metas)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"Two of the recordings are of {twice}; a mixture takes one of each world.")
    outs = [config.out / f"{name}.h5" for name in names] + [config.out / MIXED]
    for out in outs:
        refuse_existing(out, "choose another folder with --out")
    layouts = layouts_of(names, metas)
    steps = config.steps or min(lengths)
    command = replace(config, steps=steps).command
    labelled = all(meta.label_names for meta in metas)
    config.out.mkdir(parents=True, exist_ok=True)
    try:
        for done, (source, layout, out) in enumerate(zip(config.sources, layouts, outs, strict=False)):
            write_store(out, converted(source, layout, steps, labelled), described(out.stem, layout, command, labelled))
            if progress is not None:
                progress(done + 1, len(outs))
        largest = max(layouts, key=lambda layout: layout.entities)
        write_store(outs[-1], _all(outs[:-1], largest.entities), described("mixed", largest, command, labelled))
    except BaseException:
        # Parts without their mixture would keep it from being made again.
        for out in outs:
            out.unlink(missing_ok=True)
        raise
    if progress is not None:
        progress(len(outs), len(outs))
    return outs[-1]


def part_name(world: str) -> str:
    """A world's name as the name of its part."""
    return world.replace(":", "-").replace("/", "-")


def layouts_of(names: tuple[str, ...], metas: Sequence[StoreMeta]) -> list[Layout]:
    """The common form, as seen from every world."""
    shapes = [
        meta.observation.shape if meta.observation.kind == "entities" else (1, meta.observation.size) for meta in metas
    ]
    features, actions = max(shape[1] for shape in shapes), max(meta.action.size for meta in metas)
    return [Layout(names, world, shape[0], features, actions) for world, shape in enumerate(shapes)]


def filled(observations: np.ndarray, names: tuple[str, ...], entities: int) -> np.ndarray:
    """Observations (..., M, F) of a part as they are in the mixture, (..., `entities`, F).

    Args:
        names: of the features.
    """
    missing = entities - observations.shape[-2]
    # What is missing is zero, except for the mark: it knows the world that it is missing from.
    features = names.index(PRESENT)
    none = np.repeat(observations[..., :1, :], missing, axis=-2)
    none[..., : features + 1] = 0.0
    return np.concatenate([observations, none], axis=-2)


def converted(source: Path, layout: Layout, steps: int, labelled: bool) -> Iterator[Episode]:
    """The episodes of a recording in the common form, until `steps` transitions are reached."""
    with Store.open(source) as store:
        columns = open_memmap(store)
        statistics = compute_statistics(columns, store.split("train"))
        # Labels of different engines share no unit, but each knows what is hard in its own world.
        label = np.empty(0)
        if labelled:
            # The last row of an episode is its final observation, after which nothing was difficult.
            final = columns.ep_offset + columns.ep_len
            label = np.sort(np.delete(columns.labels[store.meta.label_names[0]], final))
        taken = 0
        for index in range(store.num_episodes):
            if taken >= steps:
                return
            episode = store.episode(index)
            taken += episode.length
            labels = {}
            if labelled:
                value = episode.labels[store.meta.label_names[0]]
                middle = (np.searchsorted(label, value, "left") + np.searchsorted(label, value, "right")) / 2
                labels = {DIFFICULTY: (middle / len(label)).astype(np.float32)}
            yield Episode(
                layout.observations(episode.observations, statistics),
                layout.acted(episode.actions, statistics),
                ((episode.rewards - statistics.reward_mean) / statistics.reward_std).astype(np.float32),
                episode.terminated,
                labels,
                episode.seed,
            )


def described(world: str, layout: Layout, command: str, labelled: bool) -> StoreMeta:
    """What the store of a part, or of the mixture, says of itself."""
    return StoreMeta(
        world=world,
        observation=layout.observation,
        action=layout.action,
        label_names=(DIFFICULTY,) if labelled else (),
        command=command,
    )


def _all(parts: Sequence[Path], entities: int) -> Iterator[Episode]:
    for part in parts:
        with Store.open(part) as store:
            for index in range(store.num_episodes):
                episode = store.episode(index)
                seen = filled(episode.observations, store.meta.observation.names, entities)
                yield replace(episode, observations=seen)


def _check(source: Path, meta: StoreMeta) -> None:
    if meta.observation.kind not in ("entities", "vector"):
        raise UserError(f"{source} observes {meta.observation.kind}s; only entities and vectors can be mixed.")
    if meta.observation.presence is not None:
        raise UserError(
            f"{source} has entities that are not always there ('{PRESENT}'), or is a mixture; mix what it was made of."
        )
    if meta.action.kind != "continuous":
        raise UserError(f"{source} has {meta.action.kind} actions; only continuous ones can be mixed.")
