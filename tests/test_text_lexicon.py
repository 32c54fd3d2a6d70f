"""The lists of names that ship with the package can be made again."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loopwm.text.benchmark import make_lexicon
from loopwm.text.benchmark.lexicon import load_lexicon

PROBLEM = """
(define (problem plan_trial_T20190907)
(:domain alfred)
(:objects
agent1 - agent
SaltShaker - object
SaltShakerType - otype
        MugType - otype
        SinkBasinType - rtype
Mug_bar__minus_00_dot_64 - object
"""


def test_alfworlds_names_are_the_types_of_its_problems(tmp_path: Path):
    plain, packed = tmp_path / "games.jsonl", tmp_path / "games.jsonl.xz"
    line = json.dumps({"pddl_problem": PROBLEM}) + "\n"
    plain.write_text(line)
    packed.write_bytes(lzma.compress(line.encode()))
    for path in (plain, packed):
        assert set(make_lexicon.alfworld_names(path)) == {"saltshaker", "mug", "sinkbasin"}


def test_a_list_is_written_sorted_with_its_source_and_without_general_words(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(make_lexicon, "FOLDER", tmp_path)
    make_lexicon.write("scienceworld", {"stove", "substance", "metal pot"}, "somewhere")
    text = (tmp_path / "scienceworld.txt").read_text()
    assert text == "# Names of things, from somewhere.\nmetal pot\nstove\n"


def test_names_are_read_from_trees_types_and_referents():
    tree = {
        "name": "Kitchen",
        "propMaterial": None,
        "contents": {
            "cup-1": {"name": "glass cup", "propMaterial": {"substanceName": "glass"}, "contents": {}},
            "soap-2": {"name": "soap", "propMaterial": {"substanceName": "soap"}, "contents": None},
        },
    }
    assert set(make_lexicon.names_in(tree)) == {"kitchen", "glass cup", "glass", "soap"}
    assert make_lexicon.type_name("scienceworld.objects.substance.food.AppleJuice") == "apple juice"
    objects = {"7": {"type_id": 3, "referents": ["seed", "Lemon seed", "seed in seed jar", "cup terminal 1"]}}
    assert set(make_lexicon.referents(objects)) == {"seed", "lemon seed"}


@pytest.mark.parametrize(
    ("world", "name"), [("scienceworld", "ultra low temperature freezer"), ("alfworld", "toiletpaperhanger")]
)
def test_the_lists_that_ship_hold_what_one_meets(world: str, name: str):
    lexicon = load_lexicon(world)
    assert name in lexicon.names
    assert len(lexicon.names) > 100


# In a process of its own, as the simulator leaves pipes and a folder open.
ASK = """
import json
from scienceworld import ScienceWorldEnv
from loopwm.text.benchmark.make_lexicon import names_in
env = ScienceWorldEnv("")
env.load("boil", 0, "")
env.server.reset()
print(json.dumps(sorted(set(names_in(env.getObjectTree())))))
env.close()
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="ScienceWorld's simulator needs Java")
def test_the_simulators_names_are_in_the_list():
    pytest.importorskip("scienceworld", reason="asks the real simulator")
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=120, check=True)
    names = set(json.loads(done.stdout))
    known = load_lexicon("scienceworld")
    assert len(names) > 60
    assert {name for name in names - make_lexicon.GENERAL if not known.entities(name)} == set()
