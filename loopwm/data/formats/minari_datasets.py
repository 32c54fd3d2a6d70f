"""Minari datasets, by id: `minari:NAMESPACE/NAME-v0`. Only local ones; nothing is downloaded."""

from __future__ import annotations

import difflib
import itertools
import shutil
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from loopwm.data.episode import Episode
from loopwm.data.formats.source import Part, Source, read_side_file, write_side_file
from loopwm.data.meta import StoreMeta
from loopwm.envs.gymnasium_worlds import feature_names, varying
from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names, channels_first

PREFIX = "minari:"
_EPISODES_AT_ONCE = 64


class MinariFormat:
    """Datasets that Minari finds: in its own folder, or in MINARI_DATASETS_PATH."""

    name = "minari"

    def detect(self, path: Path) -> bool:
        """By the prefix."""
        return str(path).startswith(PREFIX)

    def read(self, path: Path) -> Source:
        """The dataset with this id.

        Raises:
            UserError: not local, Minari not installed, or spaces that cannot be stored.
        """
        dataset, dataset_id = loaded(path), identified(path)
        meta = read_side_file(Path(dataset.storage.data_path)) or described(dataset, dataset_id)
        return Source(meta, partial(_parts, dataset, dataset_id, meta), lambda: len(dataset.episode_indices))

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """A new local dataset.

        Raises:
            UserError: the id exists or is none.
        """
        minari, dataset_id = engine(), identified(path)
        if dataset_id in local_ids():
            raise UserError(
                f"There is a local Minari dataset '{dataset_id}' already; choose another id, or remove it with: minari "
                f"delete {dataset_id}"
            )
        folder = _new_folder(dataset_id)
        remaining = iter(episodes)
        batches = iter(lambda: list(itertools.islice(remaining, _EPISODES_AT_ONCE)), [])
        try:
            numbers = itertools.count()
            beginning = next(batches, [])
            if not beginning:
                raise UserError("A Minari dataset needs at least one episode, none was given.")
            _need_room(dataset_id, beginning)
            waiting = [_buffer(minari, meta, next(numbers), episode) for episode in beginning]
            dataset = _created(minari, dataset_id, waiting, meta)
            for batch in batches:
                _need_room(dataset_id, batch)
                dataset.storage.update_episodes([_buffer(minari, meta, next(numbers), episode) for episode in batch])
            write_side_file(Path(dataset.storage.data_path), meta)
        except BaseException as error:
            # Also what Minari left when it failed: a folder without a whole dataset stops it from listing the others.
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise LoopwmError(f"The Minari dataset {dataset_id} could not be written: {error}.") from error
            raise


def _need_room(dataset_id: str, batch: list[Episode]) -> None:
    """Before HDF5 finds the disk full, as it may crash then and take Python with it.

    Raises:
        LoopwmError: no room for these episodes.
    """
    root = _root("")
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    # As Minari may write them, in double precision, and some for its tables.
    needed = 2**20 + 2 * sum(
        part.nbytes
        for episode in batch
        for part in (episode.observations, episode.actions, episode.rewards, *episode.labels.values())
    )
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise LoopwmError(
            f"The Minari dataset {dataset_id} could not be written: {existing} has {free / 2**20:.0f} MiB left and the "
            f"next episodes may take {needed / 2**20:.0f} MiB; free some space, or set MINARI_DATASETS_PATH to another "
            "folder."
        )


def engine() -> Any:
    """The package.

    Raises:
        UserError: not installed.
    """
    try:
        import minari
    except ModuleNotFoundError as error:
        raise UserError('Minari datasets need the package minari; get it with pip install "loopwm[minari]".') from error
    return minari


def loaded(path: Path) -> Any:
    """The dataset with this id.

    Raises:
        UserError: not local, damaged, or Minari not installed.
    """
    minari, dataset_id = engine(), identified(path)
    local = local_ids()
    if dataset_id not in local:
        near = difflib.get_close_matches(dataset_id, local, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(sorted(local)) or 'none'}."
        raise UserError(
            f"There is no local Minari dataset '{dataset_id}', and nothing is downloaded: {hint} Others come with: "
            f"minari download {dataset_id}"
        )
    try:
        return minari.load_dataset(dataset_id)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The Minari dataset {dataset_id} is damaged ({error}); download or record it again."
        ) from error


def local_ids() -> list[str]:
    """Ids of all datasets that are here.

    Raises:
        UserError: Minari cannot read its own folder.
    """
    try:
        return list(engine().list_local_datasets())
    except (ValueError, TypeError) as error:
        raise UserError(
            f"Minari cannot list its datasets ({error}); move what it does not know out of {_root('')}."
        ) from error


def _root(dataset_id: str) -> Path:
    from minari.storage.datasets_root_dir import get_dataset_path

    return get_dataset_path(dataset_id)


def _new_folder(dataset_id: str) -> Path:
    """The folder, not yet there, of a new dataset.

    Raises:
        UserError: the id is none, or the folder is there.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"'{dataset_id}' is no id of a Minari dataset; they look like name-v0, mine/name-v0."
        ) from error
    folder = _root(dataset_id)
    refuse_existing(folder, "choose another id or remove it")
    return folder


def identified(path: Path) -> str:
    """The id without its prefix."""
    return str(path).removeprefix(PREFIX)


def described(dataset: Any, dataset_id: str) -> StoreMeta:
    """What a dataset that others made says of itself.

    Raises:
        UserError: spaces that cannot be stored.
    """
    seen, act = dataset.observation_space, dataset.action_space
    if _image(seen):
        shape = (*seen.shape[1:], seen.shape[0]) if channels_first(seen.shape) else tuple(seen.shape)
        observation = ObservationSpec("image", shape, channel_names(shape[-1]))
    elif varying(seen):
        raise UserError(f"{dataset_id} observes a space of varying size ({varying(seen)}), which cannot be stored.")
    else:
        found = feature_names(seen)
        observation = ObservationSpec("vector", (len(found),), found)
    if isinstance(act, spaces.Box) and len(act.shape) != 1:
        act = spaces.flatten_space(act)
    elif isinstance(act, spaces.MultiBinary | spaces.MultiDiscrete):
        act = spaces.MultiDiscrete(
            act.nvec.flatten() if isinstance(act, spaces.MultiDiscrete) else np.full(act.shape, 2).flatten()
        )
    try:
        return StoreMeta(PREFIX + dataset_id, observation, ActionSpec.from_gymnasium(act))
    except UserError as error:
        raise UserError(f"{dataset_id}: {error}") from error


def _created(minari: Any, dataset_id: str, episodes: list[Any], meta: StoreMeta) -> Any:
    with warnings.catch_warnings():
        # About author, code and environment, which the file beside the data tells as far as they are known.
        warnings.simplefilter("ignore", UserWarning)
        return minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            observation_space=meta.observation.to_gymnasium(),
            action_space=meta.action.to_gymnasium(),
            # Its default for images loses detail.
            jpeg_encoding=False,
        )


def _image(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _parts(dataset: Any, dataset_id: str, meta: StoreMeta) -> Iterator[Part]:
    for number in dataset.episode_indices:
        yield Part(f"minari:{dataset_id}, episode {number}", partial(_episode, dataset, int(number), meta))


def _episode(dataset: Any, number: int, meta: StoreMeta) -> Episode:
    try:
        found = next(dataset.iterate_episodes([number]))
        stored = next(iter(dataset.storage.get_episode_metadata([number])), {})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"this is damaged ({error}); download or record it again.") from error
    infos = found.infos or {}
    return Episode(
        observations=_observations(found.observations, dataset.observation_space, meta),
        actions=_actions(found.actions, dataset.action_space),
        rewards=np.asarray(found.rewards, np.float32),
        terminated=bool(found.terminations[-1]) if len(found.terminations) else False,
        # There is an info for the beginning, too.
        labels={name: np.asarray(infos[name][1:], np.float32) for name in meta.label_names},
        seed=int(stored.get("seed", -1) if stored.get("seed") is not None else -1),
    )


def _observations(values: Any, space: gymnasium.Space, meta: StoreMeta) -> np.ndarray:
    """(L+1, *S), flattened as `loopwm collect gym:` does; channels come last."""
    if meta.observation.kind == "image" and values.shape[1:] != meta.observation.shape:
        values = np.moveaxis(values, 1, -1)
    if isinstance(values, np.ndarray) and values.shape[1:] == meta.observation.shape:
        return values.astype(np.uint8 if meta.observation.kind == "image" else np.float32)
    if isinstance(space, spaces.Dict):
        parts = [_observations(values[key], part, meta) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, spaces.Tuple):
        parts = [_observations(value, part, meta) for value, part in zip(values, space.spaces, strict=True)]
        return np.concatenate(parts, axis=1)
    return np.stack([np.asarray(spaces.flatten(space, value), np.float32).reshape(-1) for value in values])


def _actions(values: Any, space: gymnasium.Space) -> np.ndarray:
    """(L, A); choices are counted from 0."""
    actions = np.asarray(values)
    start = getattr(space, "start", 0)
    return (actions - start).reshape(len(actions), -1).astype(np.float32)


def _buffer(minari: Any, meta: StoreMeta, number: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    length = episode.length
    kind = meta.action.kind
    actions = episode.actions if kind == "continuous" else episode.actions.astype(np.int64)
    ends = np.zeros(length, bool)
    ends[-1] = True
    return EpisodeBuffer(
        id=number,
        seed=episode.seed if episode.seed >= 0 else None,
        observations=list(episode.observations),
        actions=list(actions[:, 0] if kind == "discrete" else actions),
        rewards=episode.rewards.tolist(),
        terminations=(ends & episode.terminated).tolist(),
        truncations=(ends & (not episode.terminated)).tolist(),
        infos={name: [0.0, *values.tolist()] for name, values in episode.labels.items()},
    )
