"""ALFWorld's engine: TextWorld's interpreter of PDDL games, played as its own `PddlEnv` plays them, but faster.

States, plans and texts come from TextWorld (`PddlState` on Fast Downward, `ContextSensitiveGrammar`). `PddlEnv` would
load every game twice, parse the shared grammar for every game, and derive the words of every possible action from the
grammar at every step; here each is done once, which the texts do not depend on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import warnings
from typing import Any, NoReturn

from loopwm.errors import LoopwmError, Missing
from loopwm.extras import installed
from loopwm.text.worlds.alfred_games import UNKNOWN_TASK, AlfredGame
from loopwm.text.worlds.alfred_problem import number_things

_ARRIVAL = re.compile(r"^You arrive at loc \d+\. ")
"""Numbers of places, which ALFWorld's own agents do not get to see either, and stored trajectories do not have."""
_PATIENCE = 10
NOTHING_HAPPENS = "Nothing happens."


class AlfredEngine:
    """Plays one game after another."""

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise Missing("ALFWorld's engine runs on Linux and macOS; the actor `expert` needs none.")
        with installed("alfworld", "alfworld", ", or record the actor `expert`, which needs none"):
            # Not a part of the development environment, which therefore does not find them.
            import fast_downward  # pyright: ignore
            from textworld.envs.pddl import logic  # pyright: ignore
        # Any: none of TextWorld's PDDL modules has types.
        self._module: Any = logic
        self._library: Any = fast_downward.load_lib()
        self._logics: dict[tuple[str, str], Any] = {}
        self._state: Any = None
        self._infos: dict[str, Any] = {}
        self._texts: dict[tuple[Any, ...], str] = {}
        self._actions: dict[str, Any] = {}

    def start(self, game: AlfredGame) -> str:
        """Load a game; what it says at the start comes back.

        Raises:
            LoopwmError: it does not load.
        """
        words = sys.argv
        try:
            key = (game.domain, game.grammar)
            if key not in self._logics:
                self._logics = {key: self._module.GameLogic(*key)}
            self._logic = self._logics[key]
            self._state = self._module.PddlState(self._library, game.problem, self._logic)
            self._infos = self._name_things()
            self._texts, self._actions = {}, {}
            return self._say("#intro#", {}).replace(UNKNOWN_TASK, game.task)
        # The parsers of PDDL and of the grammar raise whatever they come across, an exit included.
        except (Exception, SystemExit) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise LoopwmError(f"The game {game.name} does not load ({type(error).__name__}: {reason}).") from error
        finally:
            # Fast Downward's translator replaces the words of the command line by its own.
            sys.argv = words

    def admissible(self) -> list[str]:
        """Actions that would do something now, sorted."""
        if not self._actions:
            for action in self._state.all_applicable_actions():
                self._actions.setdefault(self._command(action), action)
        return sorted(self._actions)

    def act(self, command: str) -> str:
        """Do something; the answer comes back."""
        self.admissible()
        action = self._actions.get(command)
        if action is None:
            return NOTHING_HAPPENS
        self._state.apply(action)
        self._actions = {}
        return self._feedback(action)

    def aside(self, command: str) -> str:
        """What looking would answer, `look` or `inventory`, without doing it; nothing where there is no way to look."""
        self.admissible()
        action = self._actions.get(command)
        return "" if action is None else self._feedback(action)

    def _feedback(self, action: Any) -> str:
        return _ARRIVAL.sub("", self._say(action.feedback_rule, action.mapping))

    def plan(self) -> list[str]:
        """Actions that solve the game from here, by the engine's planner; none where it finds none in time.

        A search for a plan may take all the time and memory there is, and cannot be stopped. So it runs in a fork of
        this process, with `_PATIENCE` seconds of computing time, and leaves nothing behind.
        """
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # The fork does nothing but search and write, so threads of this process do not matter to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            self._search(writing)
        os.close(writing)
        try:
            with open(reading, "rb") as pipe:
                found = pipe.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return json.loads(found) if found else []

    def _search(self, writing: int) -> NoReturn:
        # Not on Windows, which can import this module but makes no engine.
        import resource

        try:
            for limit, most in ((resource.RLIMIT_CPU, _PATIENCE), (resource.RLIMIT_CORE, 0)):
                resource.setrlimit(limit, (most, most))
            plan = json.dumps(self._state.replan(self._infos)).encode()
            with open(writing, "wb") as pipe:
                pipe.write(plan)
        finally:
            # Whatever happened: what the parent would do on leaving is the parent's.
            os._exit(0)

    @property
    def won(self) -> bool:
        """Whether the task is done."""
        return bool(self._state.check_goal())

    def close(self) -> None:
        """Forget the game; twice does no harm.

        The planner's library stays loaded, as TextWorld leaves it: unloading one copy of it breaks others.
        """
        self._state, self._actions, self._texts, self._infos = None, {}, {}, {}

    def _name_things(self) -> dict[str, Any]:
        from textworld.generator.game import EntityInfo  # pyright: ignore

        # Any: names of things have no type there but None.
        infos: dict[str, Any] = {
            one.name: EntityInfo(one.name, one.type) for fact in self._state.facts for one in fact.arguments
        }
        names = number_things(infos)
        for identifier, info in infos.items():
            info.name, info.definite, info.indefinite = names.get(identifier, identifier), "the", "a"
        return infos

    def _command(self, action: Any) -> str:
        """The words of an action: those of its template, with the things of the action filled in.

        The template of going somewhere asks the state which receptacle is where; that never changes, so the words
        depend on nothing but the things named.
        """
        named = [
            (place.name, thing.name)
            for place, thing in action.mapping.items()
            if re.search(rf"\b{place.name}\b", action.command_template)
        ]
        key = (action.command_template, *named)
        if key not in self._texts:
            self._texts[key] = self._say(action.command_template, action.mapping)
        return self._texts[key]

    def _say(self, rule: str, mapping: Any) -> str:
        context = {
            "state": self._state,
            "facts": list(self._state.facts),
            "variables": {place.name: self._infos[thing.name] for place, thing in mapping.items()},
            "mapping": mapping,
            "entity_infos": self._infos,
        }
        return self._logic.grammar.derive(rule, context).strip()
