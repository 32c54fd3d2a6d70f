"""Recording a text world into one file, by several processes, going on where an earlier attempt was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing
from loopwm.text.crew import Crew, Job, LeftOut, MakeWorld
from loopwm.text.journal import Journal
from loopwm.text.recording import TextManifest, parquet, read_recording, write_recording

_HOPELESS = 12
"""Episodes in a row that fail before the recording gives up: so many have a common cause."""


@dataclass(frozen=True)
class TextCollectConfig:
    """Who plays, how often, and by how many processes.

    Attributes:
        actors: who acts; every game is played by each. The world's first one when left out.
        episodes: of every game and actor.
        workers: processes, each with a world of its own. The recording does not depend on it.
        seed: what random choices follow from, together with the game and the actor.
        beyond: recordings that are there already; what an actor has played in one of them is not played again.
    """

    actors: tuple[str, ...] = ()
    episodes: int = 1
    workers: int = 1
    seed: int = 0
    beyond: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("episodes", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}.")
        if len(set(self.actors)) < len(self.actors):
            raise UserError(f"actors names somebody twice: {' '.join(self.actors)}.")


@dataclass(frozen=True)
class TextCollected:
    """What became of a recording: its manifest, numbers of episodes and transitions, and what is not in it."""

    manifest: TextManifest
    episodes: int
    transitions: int
    left_out: tuple[LeftOut, ...]


def collect_text(
    make: MakeWorld,
    config: TextCollectConfig,
    out: Path,
    command: str,
    progress: Callable[[int, int], None] | None = None,
) -> TextCollected:
    """Record every game of a world into a new file at `out`.

    Finished episodes are kept in `journal_of(out)` meanwhile, which the same call goes on from, however it was stopped.
    An episode is a function of its game, its actor and the seed, as far as the world is one, so the recording does not
    depend on the number of workers. Processes are spawned: a script that calls this needs the usual
    `if __name__ == "__main__":` guard.

    Args:
        make: makes a world, and is picklable, such as `functools.partial(ScienceWorld, config)`.
        config: `actors` has to be given, as worlds name them.
        out: the new file; appears when it is complete and not before.
        command: what to type to record the same again; goes into the manifest, and tells recordings apart.
        progress: called with (episodes done, episodes in total) after each, and once at the start.

    Raises:
        UserError: `out` exists, pyarrow is missing, the journal is another recording's or damaged, the world cannot
            be made, or a recording to go beyond cannot be read, is of another world or leaves nothing to play.
        LoopwmError: nothing could be recorded, or the disk refused.
        KeyboardInterrupt: stopped, after an episode; what is done is kept.
    """
    out, advance = Path(out), progress or (lambda done, total: None)
    refuse_existing(out, "choose another --out or remove it")
    # What writes the file is needed at the end, hours from here; if it is missing, that is said at the beginning.
    parquet()
    if not config.actors:
        raise UserError("Nobody plays: name at least one of the world's actors.")
    with contextlib.closing(make()) as world:
        name, games, patience = world.name, world.games(), world.patience
        versions = {package: _version(package) for package in world.packages}
    jobs = plan(games, config)
    if not jobs:
        raise UserError(f"{name} has no game of what is asked for; nothing was recorded.")
    jobs = further(jobs, name, config.beyond)
    journal = Journal(journal_of(out), _identity(command, versions, jobs))
    with contextlib.closing(journal):
        try:
            left_out = _play_all(Crew(make, config.workers, patience), jobs, journal, advance)
        except UserError:
            # Nothing to go on from is left behind where nothing could be played at all.
            if not len(journal):
                journal.remove()
            raise
        if not len(journal):
            raise LoopwmError(f"None of the {len(jobs)} episodes could be recorded: {left_out[-1].reason}")
        episodes = list(journal.episodes())
        versions = {"python": platform.python_version(), "loopwm": _version("loopwm")} | versions
        manifest = write_recording(out, episodes, TextManifest(name, command, versions))
        journal.remove()
    return TextCollected(manifest, len(episodes), sum(one.length for one in episodes), tuple(left_out))


def journal_of(out: Path) -> Path:
    """Where finished episodes are kept until the recording at `out` is complete."""
    return out.with_name(f"{out.name}.part")


def plan(games: list[str], config: TextCollectConfig) -> list[Job]:
    """All episodes, in the order in which they will be in the file: every actor's of a game, then the next game's."""
    return [
        Job(number, game, actor, job_seed(config.seed, game, actor, repeat))
        for number, (game, actor, repeat) in enumerate(
            (game, actor, repeat) for game in games for actor in config.actors for repeat in range(config.episodes)
        )
    ]


def further(jobs: list[Job], world: str, beyond: Sequence[Path]) -> list[Job]:
    """Of `jobs`, those that no recording of `beyond` has an episode of, numbered as before.

    Raises:
        UserError: one of them cannot be read or is of another world, or they have all.
    """
    known: set[tuple[str, str]] = set()
    for path in beyond:
        manifest, episodes = read_recording(path)
        if manifest.world != world:
            raise UserError(f"{path} is a recording of {manifest.world}; what goes beyond it has to be, too.")
        known |= {(f"{one.split}/{one.game}", one.actor) for one in episodes}
    missing = [job for job in jobs if (job.game, job.actor) not in known]
    if not missing:
        raise UserError(
            f"All {len(jobs)} episodes are in {', '.join(map(str, beyond))} already; ask for more games, or leave out "
            "--beyond."
        )
    return missing


def job_seed(seed: int, game: str, actor: str, repeat: int) -> int:
    """A seed in [0, 2**63) of an episode, independent of which others are recorded."""
    key = json.dumps([seed, game, actor, repeat]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


def _play_all(crew: Crew, jobs: list[Job], journal: Journal, advance: Callable[[int, int], None]) -> list[LeftOut]:
    """Play what the journal lacks; what failed comes back."""
    missing = [job for job in jobs if job.number not in journal]
    left_out: list[LeftOut] = []
    in_a_row = 0
    advance(len(journal), len(jobs))
    with contextlib.closing(crew.play(missing)) as played:
        for done in played:
            if isinstance(done, LeftOut):
                left_out.append(done)
                in_a_row += 1
            else:
                journal.append(done[0].number, done[1])
                in_a_row = 0
            if in_a_row == _HOPELESS:
                raise LoopwmError(
                    f"{_HOPELESS} episodes in a row could not be recorded, the last one {told(left_out[-1])}; the "
                    f"{len(journal)} finished ones are kept, and the same command goes on."
                )
            advance(len(journal) + len(left_out), len(jobs))
    return left_out


def told(one: LeftOut) -> str:
    """Which episode was left out and why: `train/boil/3 (gold): The simulator failed`, without a full stop."""
    return f"{one.job.game} ({one.job.actor}): {one.reason.strip().rstrip('.')}"


def _identity(command: str, versions: dict[str, str], jobs: list[Job]) -> str:
    """Tells recordings apart whose journals are at the same place."""
    digest = hashlib.blake2b(repr(jobs).encode(), digest_size=8).hexdigest()
    return f"{command} # {', '.join(f'{name} {version}' for name, version in versions.items())}; episodes {digest}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
