"""ALFWorld's games: what they are called, what is where, and episodes of the real engine.

The real games are data outside the repository, in the folder `shared/data` beside it; without them, tests on them skip.
"""

from __future__ import annotations

import json
import lzma
import random
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import LoopwmError, UserError
from loopwm.text.benchmark.windows import hold_out
from loopwm.text.worlds.alfred_engine import NOTHING_HAPPENS, AlfredEngine
from loopwm.text.worlds.alfred_games import UNKNOWN_TASK, find_games
from loopwm.text.worlds.alfred_problem import initial_state, listed, number_things, read_problem
from loopwm.text.worlds.alfworld import AlfWorld, AlfWorldConfig, with_search

SHARED = next(
    (up / "shared" / "data" for up in Path(__file__).resolve().parents if (up / "shared/data").is_dir()), None
)
needs_games = pytest.mark.skipif(
    SHARED is None or not (SHARED / "alfworld_games.jsonl.xz").is_file(),
    reason="the games of ALFWorld are not in ../shared/data",
)
PROBLEM = textwrap.dedent("""
    (define (problem plan_trial) (:domain alfred)
    (:objects agent1 - agent Pencil_bar_0 Pen_bar_0 Pen_bar_1 DeskLamp_bar_0 Bowl_bar_0 Egg_bar_0 - object)
    (:init (= (total-cost) 0)
        (receptacleType Shelf_bar_1 ShelfType) (objectType Egg_bar_0 EggType)
        (atLocation agent1 loc_bar_9)
        (openable Drawer_bar_1)
        (receptacleAtLocation Shelf_bar_1 loc_bar_2) (receptacleAtLocation Shelf_bar_2 loc_bar_2)
        (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_3)
        (receptacleAtLocation Drawer_bar_1 loc_bar_1)
        (inReceptacle Pen_bar_1 Shelf_bar_1) (inReceptacle Pencil_bar_0 Shelf_bar_1)
        (inReceptacle Pen_bar_0 Shelf_bar_1)
        (inReceptacle Bowl_bar_0 Drawer_bar_1) (isReceptacleObject Bowl_bar_0) (inReceptacleObject Egg_bar_0 Bowl_bar_0)
        (isClean Egg_bar_0) (isHot Egg_bar_0)
        (toggleable DeskLamp_bar_0)
        (inReceptacle DeskLamp_bar_0 Sink_bar_1_bar_SinkBasin)
    )
    (:goal (and (exists (?r - receptacle) (inReceptacle Egg_bar_0 ?r)))))
""")
PLAN = "look_at_obj_in_light-Pen-None-DeskLamp-1/trial_1"


@pytest.fixture(scope="module")
def games() -> Iterator[Path]:
    """The real games."""
    if SHARED is None:
        pytest.skip("no shared data")
    yield SHARED / "alfworld_games.jsonl.xz"


@pytest.fixture(scope="module")
def rows(games: Path) -> list[dict[str, Any]]:
    """Every 50th of them, as they are in the file."""
    with lzma.open(games, "rt") as lines:
        return [json.loads(line) for number, line in enumerate(lines) if number % 50 == 0]


@pytest.fixture(scope="module")
def some_games(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a file of their own, beside the logic."""
    assert SHARED is not None
    folder = tmp_path_factory.mktemp("games")
    (folder / "alfworld_logic.json").write_bytes((SHARED / "alfworld_logic.json").read_bytes())
    (folder / "games.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "games.jsonl"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A file of small games that no engine is needed for: 40 of training, with trajectories, and 2 others."""
    rows = [row_of(f"look_at_obj_in_light-Pen-None-DeskLamp-{k}/trial_{k}", "train") for k in range(40)]
    rows += [
        {**row_of(f"pick_and_place_simple-Pen-None-Shelf-{s}/t", s), "gt_traj": []}
        for s in ("valid_seen", "valid_unseen")
    ]
    (tmp_path / "games.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "games.jsonl"


def row_of(game: str, split: str) -> dict[str, Any]:
    trajectory = ["You see a shelf 1.", "go to shelf 1", "On the shelf 1, you see nothing.", "look", "A room."]
    task = "Your task is to: look."
    return {"split": split, "game": game, "task": task, "pddl_problem": PROBLEM, "gt_traj": trajectory}


def test_initial_state_is_told_in_the_games_own_sentences_and_order() -> None:
    assert initial_state(read_problem(PROBLEM)).split("\n\n") == [
        "The drawer 1 is closed. In it, you see a bowl 1.",
        "On the shelf 2, you see a pen 2, a pen 1, and a pencil 1.",
        "On the shelf 1, you see nothing.",
        "On the sinkbasin 1, you see a desklamp 1.",
        "You are facing the shelf 2, and shelf 1.",
        "This is a normal bowl 1. In it, you see a egg 1.",
        "This desklamp 1 is off.",
        "This is a hot and clean egg 1.",
    ]


@given(st.lists(st.from_regex(r"(shelf|sink|pen|pencil)_bar_[0-9]{1,2}(_bar_sinkbasin)?", fullmatch=True), max_size=20))
def test_things_of_a_type_are_numbered_from_one_without_gaps_and_whatever_the_order(identifiers: list[str]) -> None:
    names = number_things(identifiers)
    assert names == number_things(reversed(identifiers))
    assert len(set(names.values())) == len(names) == len(set(identifiers))
    for kind, count in Counter(name.split()[0] for name in names.values()).items():
        found = [int(name.split()[1]) for one, name in sorted(names.items()) if name.split()[0] == kind]
        assert found == list(range(count, 0, -1))


def test_names_are_those_of_alfworlds_demangler() -> None:
    misc = pytest.importorskip("alfworld.agents.utils.misc")
    identifiers = ["sink_bar_1", "sink_bar_1_bar_sinkbasin", "pen_bar_minus_1", "pen_bar_plus_1", "pencil_bar_3"]
    infos = {one: type("Info", (), {"id": one}) for one in identifiers}
    theirs = misc.Demangler(game_infos=infos)
    assert number_things(identifiers) == {one: theirs.demangle_alfred_name(one) for one in identifiers}


@needs_games
def test_initial_state_answers_every_first_look_of_real_trajectories(rows: list[dict[str, Any]]) -> None:
    looks, played = 0, [row for row in rows if row.get("gt_traj")]
    for row in played:
        problem = read_problem(row["pddl_problem"])
        initial = initial_state(problem)
        seen = [problem.names[one] for one, _ in problem.facts["receptacleatlocation"]]
        assert f"you see {listed(seen)}.\n" in row["gt_traj"][0]
        for receptacle, answer in first_looks(row["gt_traj"]):
            assert answer in initial, (row["game"], receptacle)
            looks += 1
    assert len(played) >= 50 and looks > 500


def first_looks(trajectory: list[str]) -> Iterator[tuple[str, str]]:
    """Receptacles that nothing was taken from or put into yet, and what `initial` has to say of them."""
    touched: set[str] = set()
    for action, answer in zip(trajectory[1::2], trajectory[2::2], strict=True):
        if match := re.match(r"(?:take|put) .* (?:from|in/on) (.+)", action):
            touched.add(match[1])
        match = re.match(r"(?:go to|open) (.+)", action)
        if match and match[1] not in touched:
            inside = answer.partition("is open. ")[2]
            yield match[1], f"The {match[1]} is closed. {inside}" if inside else answer


def test_expert_episodes_are_the_stored_ones(made: Path) -> None:
    world = AlfWorld(AlfWorldConfig(games=made, train=3, validation=1, test=0, hold_out=0.3))
    names = world.games()
    assert [name.split("/")[0] for name in names] == ["validation", "train", "train", "train"]
    episode = world.play(names[0], "expert", 5)
    assert episode.actions == ("go to shelf 1", "look")
    assert episode.observations == ("You see a shelf 1.", "On the shelf 1, you see nothing.", "A room.")
    assert (episode.scores, episode.terminated, episode.seed) == ((0.0, 0.0, 1.0), True, -1)
    assert (episode.split, episode.task_type, episode.actor) == ("validation", "look", "expert")
    assert episode.description == "Your task is to: look." and "shelf 2, you see a pen 2" in episode.initial


def test_held_out_games_are_those_the_benchmark_holds_out(made: Path) -> None:
    every = AlfWorldConfig(games=made, train=99, validation=99, test=0, hold_out=0.3)
    world = AlfWorld(every)
    played = [world.play(name, "expert", 0) for name in world.games()]
    assert len(played) == 40 and {one.split for one in played} == {"train", "validation"}
    untold = [type(one)(**{**one.__dict__, "split": "train"}) for one in played]
    assert hold_out(untold, 0.3) == played


def test_a_larger_sample_holds_the_smaller_one(made: Path) -> None:
    few = AlfWorld(AlfWorldConfig(games=made, train=5, validation=2, test=1)).games()
    assert set(few) < set(AlfWorld(AlfWorldConfig(games=made, train=15, validation=2, test=1)).games())


def test_unseen_games_take_the_place_of_seen_ones(made: Path) -> None:
    config = AlfWorldConfig(games=made, train=0, validation=0, test=9)
    assert AlfWorld(config).games() == ["test/pick_and_place_simple-Pen-None-Shelf-valid_seen/t"]
    unseen = AlfWorldConfig(games=made, train=0, validation=0, test=9, tested="unseen")
    assert AlfWorld(unseen).games() == ["test/pick_and_place_simple-Pen-None-Shelf-valid_unseen/t"]


def test_games_to_test_a_stored_expert_on_are_held_out_of_training_too(made: Path) -> None:
    config = AlfWorldConfig(games=made, train=99, validation=99, test=99, hold_out=0.2)
    games = AlfWorld(replace(config, tested="training")).games()
    split = {name.partition("/")[2]: name.partition("/")[0] for name in games}
    before = {name.partition("/")[2]: name.partition("/")[0] for name in AlfWorld(config).games()}
    held_out = {name for name, where in split.items() if where == "test"}
    assert held_out and all("valid_" not in name and before[name] == "train" for name in held_out)
    # What is validation stays so, and nothing else is taken from training.
    assert {n for n, s in split.items() if s == "validation"} == {n for n, s in before.items() if s == "validation"}
    assert {n for n, s in split.items() if s == "train"} == {n for n, s in before.items() if s == "train"} - held_out
    with pytest.raises(UserError, match="tested must be seen, unseen or training, got 'all'"):
        AlfWorldConfig(tested="all")  # type: ignore[arg-type]


def test_the_official_folder_holds_the_same_games(tmp_path: Path, made: Path) -> None:
    logic = 'grammar "rhs": "Your task is to: look."'
    for line in made.read_text().splitlines():
        row = json.loads(line)
        folder = tmp_path / "data" / "json_2.1.1" / row["split"] / row["game"]
        folder.mkdir(parents=True)
        game = {"pddl_problem": PROBLEM, "pddl_domain": "domain", "grammar": logic, "solvable": True}
        (folder / "game.tw-pddl").write_text(json.dumps(game))
    official = find_games(tmp_path / "data", None)
    assert official.splits == find_games(made, None).splits
    assert find_games(tmp_path / "data" / "json_2.1.1", None).splits == official.splits
    game = official.game(next(iter(official.splits)))
    assert (game.task, game.problem, game.domain) == ("Your task is to: look.", PROBLEM, "domain")
    assert game.grammar == f'grammar "rhs": "{UNKNOWN_TASK}"'


def test_a_game_that_cannot_be_solved_or_read_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "valid_seen" / PLAN
    folder.mkdir(parents=True)
    file = folder / "game.tw-pddl"
    file.write_text(json.dumps({"pddl_problem": PROBLEM, "pddl_domain": "", "grammar": "", "solvable": False}))
    world = AlfWorld(AlfWorldConfig(games=tmp_path, train=0, validation=0, test=1))
    assert world.games() == [f"test/{PLAN}"]
    with pytest.raises(LoopwmError, match=f"The game {PLAN} cannot be solved"):
        world.play(f"test/{PLAN}", "planner", 0)
    file.write_text("{")
    with pytest.raises(LoopwmError, match=f"The game {PLAN} cannot be read from .*game.tw-pddl .*download it again"):
        world.play(f"test/{PLAN}", "planner", 0)


def test_missing_games_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no games of ALFWorld at .*nowhere; get them .*alfworld-download"):
        AlfWorld(AlfWorldConfig(games=tmp_path / "nowhere")).games()
    with pytest.raises(UserError, match="alfworld-download"):
        AlfWorld(AlfWorldConfig(games=tmp_path)).games()
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"no games of ALFWorld at .*cache; .*alfworld-download"):
        AlfWorld().games()


def test_a_truncated_file_is_refused(tmp_path: Path, made: Path) -> None:
    packed = lzma.compress(made.read_bytes())
    (tmp_path / "half.jsonl.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"half.jsonl.xz cannot be read to its end .* truncated"):
        AlfWorld(AlfWorldConfig(games=tmp_path / "half.jsonl.xz")).games()
    (tmp_path / "half.jsonl").write_text(made.read_text()[:-300])
    with pytest.raises(UserError, match=r"Line 42 of .*half.jsonl is no game"):
        AlfWorld(AlfWorldConfig(games=tmp_path / "half.jsonl")).games()


def test_a_missing_logic_is_named_and_only_where_it_is_needed(made: Path, tmp_path: Path) -> None:
    config = AlfWorldConfig(games=made, train=1, validation=0, test=0)
    world = AlfWorld(config)
    [name] = world.games()
    assert world.play(name, "expert", 0).length == 2
    with pytest.raises(UserError, match=r"no logic of ALFWorld's games at .*alfworld_logic.json.*--logic"):
        world.play(name, "planner", 0)
    with pytest.raises(UserError, match=r"no logic of ALFWorld's games at .*other.json"):
        AlfWorld(AlfWorldConfig(games=made, logic=tmp_path / "other.json")).games()


def test_a_split_without_stored_trajectories_has_no_expert(made: Path) -> None:
    world = AlfWorld(AlfWorldConfig(games=made, train=0, validation=0, test=1))
    [name] = world.games()
    with pytest.raises(
        LoopwmError, match=r"No trajectory of an expert is stored for .*planner, or leave it out with --test 0"
    ):
        world.play(name, "expert", 0)


def test_a_split_without_games_is_refused(tmp_path: Path) -> None:
    (tmp_path / "games.jsonl").write_text(json.dumps(row_of(PLAN, "valid_seen")) + "\n")
    with pytest.raises(
        UserError, match=r"no games of the split validation at .*which has valid_seen; .*--validation 0"
    ):
        AlfWorld(AlfWorldConfig(games=tmp_path / "games.jsonl")).games()


@pytest.mark.parametrize("seed", range(6))
def test_a_search_looks_into_other_receptacles_but_only_for_what_is_taken_or_used(seed: int) -> None:
    plan = ["go to shelf 2", "take pen 1 from shelf 2", "go to drawer 1", "open drawer 1", "put pen 1 in/on drawer 1"]
    found = with_search(plan, read_problem(PROBLEM), random.Random(seed))
    start = len(found) - len(plan)
    # Both shelves are within reach of each other, so after the one, the other is only looked at.
    assert found[start:] in (plan, ["examine shelf 2", *plan[1:]])
    assert {"go to shelf 1", "examine shelf 1"} & set(found[:start])
    assert not {"go to shelf 2", "examine shelf 2"} & set(found[:start])
    if "go to drawer 1" in found[:start]:
        inside = found.index("go to drawer 1")
        assert found[inside : inside + 3] == ["go to drawer 1", "open drawer 1", "close drawer 1"]
    assert len(set(found[:start])) == start
    known = with_search(["go to shelf 1", *plan[1:]], read_problem(PROBLEM), random.Random(seed))
    assert not {"go to shelf 2", "examine shelf 2"} & set(known)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": -1}, "train must not be negative"),
        ({"train": 0, "validation": 0, "test": 0}, "nothing to record"),
        ({"hold_out": 1.0}, "hold_out must be between 0 and 1"),
        ({"noise": 1.0}, "noise must be in"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_bad_configurations_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AlfWorldConfig(**wrong)


@needs_games
def test_planner_and_noise_are_played_in_the_real_engine(some_games: Path) -> None:
    pytest.importorskip("fast_downward")
    world = AlfWorld(AlfWorldConfig(games=some_games, train=0, validation=0, test=1, noise=0.5, limit=30))
    [name] = world.games()
    plan = world.play(name, "planner", 1)
    assert plan.terminated and plan.scores[-1] == 1 and sum(plan.scores) == 1 and plan.seed == -1
    assert NOTHING_HAPPENS not in plan.observations and plan.length <= 30
    assert world.replay(plan.game, [*plan.actions[:2], "dance"]) == [*plan.observations[1:3], NOTHING_HAPPENS]
    # Looking is recorded, and not done: the answers are those that whoever looks would get.
    for step in (0, 2, plan.length):
        looked = world.replay(plan.game, [*plan.actions[:step], "look", "inventory"])
        assert [plan.looks[step], plan.inventories[step]] == looked[-2:]
    assert len(set(plan.inventories)) > 1
    with pytest.raises(LoopwmError, match="There is no game nowhere"):
        world.replay("nowhere", [])
    noisy = world.play(name, "noisy", 1)
    assert noisy == world.play(name, "noisy", 1) and noisy.seed == 1
    assert noisy.actions != plan.actions and set(noisy.actions) - set(plan.actions)
    searcher = world.play(name, "searcher", 1)
    assert NOTHING_HAPPENS not in searcher.observations and searcher.seed == 1
    assert (searcher.terminated and searcher.length > plan.length) or searcher.length == 30
    assert noisy.observations[0] == plan.observations[0] and noisy.description in noisy.observations[0]
    assert not any("arrive at loc" in text for text in (*plan.observations, *noisy.observations))
    world.close()
    world.close()


@needs_games
def test_a_broken_game_is_one_sentence_and_the_next_one_plays(some_games: Path) -> None:
    pytest.importorskip("fast_downward")
    games = find_games(some_games, None)
    name = next(name for name, split in games.splits.items() if split == "valid_seen")
    game, engine = games.game(name), AlfredEngine()
    with pytest.raises(LoopwmError, match=r"^The game .* does not load \(.*\)\.$"):
        engine.start(type(game)(**{**game.__dict__, "problem": game.problem[: len(game.problem) // 2]}))
    assert engine.start(game).endswith(game.task) and not engine.won and engine.plan()
    assert engine.act("dance") == NOTHING_HAPPENS


@needs_games
def test_a_plan_that_takes_too_long_is_given_up(some_games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fast_downward")
    games, engine = find_games(some_games, None), AlfredEngine()
    engine.start(games.game(next(name for name, split in games.splits.items() if split == "valid_seen")))

    def forever(infos: object) -> list[str]:
        while infos:
            pass
        return []

    plan = engine.plan()
    monkeypatch.setattr(engine._state, "replan", forever)
    monkeypatch.setattr("loopwm.text.worlds.alfred_engine._PATIENCE", 1)
    assert plan and engine.plan() == []


@needs_games
@pytest.mark.slow
def test_the_engine_answers_as_textworlds_own_environment_does(some_games: Path) -> None:
    textworld = pytest.importorskip("textworld")
    pddl = pytest.importorskip("textworld.envs.pddl")
    wrappers = pytest.importorskip("alfworld.agents.environment.alfred_tw_env")
    games = find_games(some_games, None)
    engine, choice, compared = AlfredEngine(), random.Random(0), Counter[str]()
    for name in [name for name, split in games.splits.items() if split == "valid_unseen"][:2]:
        game = games.game(name)
        theirs = wrappers.AlfredDemangler(pddl.PddlEnv(textworld.EnvInfos()))
        grammar = game.grammar.replace(UNKNOWN_TASK, game.task)
        theirs.load({"pddl_domain": game.domain, "grammar": grammar, "pddl_problem": game.problem})
        state = theirs.reset()
        assert engine.start(game) == state.feedback.strip()
        for _ in range(20):
            possible = engine.admissible()
            assert possible == state["admissible_commands"]
            kind = choice.choice(sorted({command.split()[0] for command in possible}))
            command = choice.choice([one for one in (*possible, "sing") if one.split()[0] in (kind, "sing")])
            state, _, _ = theirs.step(command)
            assert engine.act(command) == re.sub(r"^You arrive at loc \d+\. ", "", state.feedback.strip())
            assert engine.won == state["won"]
            compared[command.split()[0]] += 1
    assert len(compared) > 4


@needs_games
@pytest.mark.slow
def test_stored_trajectories_are_what_the_engine_answers(some_games: Path) -> None:
    pytest.importorskip("fast_downward")
    games, engine = find_games(some_games, None), AlfredEngine()
    names = sorted(name for name, split in games.splits.items() if split == "train")
    for name in names[:: len(names) // 6]:
        game = games.game(name)
        observations, actions = game.trajectory[::2], game.trajectory[1::2]
        assert engine.start(game) == observations[0]
        for action, observation in zip(actions, observations[1:], strict=True):
            assert not engine.won
            assert engine.act(action) == observation
        assert engine.won
