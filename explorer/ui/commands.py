"""What does a page ask of the command line? Methods, an estimate, a started run: each by a process of its own.

So the page's process never loads torch, and what is typed here means what it means in a terminal. A path from a page is
data only: models are those built in, because a server may be shared and code may be named only where it is started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from explorer import sources
from explorer.errors import RunError, SettingsError
from explorer.jobs.process import WAIT
from explorer.store import runs_root

MODELS = ("auto", "linear", "mlp", "cnn")
"""Models that a page may name."""
FILES = (".npz", ".jsonl")
"""How the path of data may end."""
PATIENCE = {"methods": 60.0, "estimate": 120.0, "start": 60.0}
"""Seconds that an answer may take."""
LAST_WORDS = 400


@dataclass(frozen=True)
class Wish:
    """A run as chosen in the form, in the words of the command line.

    `data` is a built-in source or the path of a file of `FILES`; `settings` only those that are not left to the method;
    empty `queries` means all, empty `evidence` no retrainings.
    """

    data: str
    flip: str = "0"
    duplicate: str = "0"
    model: str = MODELS[0]
    method: str = "last-layer"
    settings: Mapping[str, str] = field(default_factory=dict)
    queries: str = ""
    evidence: str = ""

    def words(self) -> list[str]:
        """Arguments of `explorer run`; each value stands behind its own option, so that none is read as another.

        Raises:
            SettingsError: no data, a model or data that a page may not name, or a number that is none.
        """
        if not self.data.strip():
            raise SettingsError("Expected data to explain; found none. Choose a built-in data set or type a path.")
        if self.data not in sources.BUILT_IN and not self.data.lower().endswith(FILES):
            raise SettingsError(
                f"Expected the path of an {' or '.join(FILES)} file on the server; found {self.data!r}. Choose another."
            )
        if self.model not in MODELS:
            raise SettingsError(
                f"Expected a model out of {', '.join(MODELS)}; found {self.model!r}. A model of your own is code: name it in "
                "a terminal, with `explorer run --model FILE.py:FUNCTION`."
            )
        for name, value, read in (("flip", self.flip, float), ("duplicate", self.duplicate, float)):
            _check_number(name, value, read)
        words = [f"--data={self.data}", f"--flip={self.flip}", f"--duplicate={self.duplicate}"]
        words += [f"--model={self.model}", f"--method={self.method}"]
        words += [f"--set={name}={value}" for name, value in self.settings.items()]
        for name, value in (("queries", self.queries), ("evidence", self.evidence)):
            if value.strip():
                _check_number(name, value, int)
                words.append(f"--{name}={value.strip()}")
        return words


def methods() -> list[dict[str, Any]]:
    """Every method as `explorer methods --json` tells it; asked once in the life of the server.

    Raises:
        RunError: the process ended without an answer.
    """
    return _methods()


@lru_cache(maxsize=1)
def _methods() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _ask("methods", ["methods", "--json"])
    return found


def estimate(wish: Wish) -> dict[str, Any]:
    """What the run would cost, as `jobs.estimate` says; nothing is started.

    Raises:
        ExplorerError: the wish or the data are not as they must be, in words.
    """
    found: dict[str, Any] = _ask("estimate", ["run", *wish.words(), "--estimate", "--json", _folder()])
    return found


def start(wish: Wish) -> str:
    """Start the run's job, or find it where the same was asked before; its name.

    Raises:
        ExplorerError: as `estimate`.
    """
    return str(_ask("start", ["run", *wish.words(), "--background", "--json", _folder()])["run"])


def _folder() -> str:
    return f"--runs={runs_root()}"


def _check_number(name: str, value: str, read: type[float] | type[int]) -> None:
    try:
        read(value)
    except ValueError as error:
        kind = "a whole number" if read is int else "a number"
        raise SettingsError(f"Expected {name} to be {kind}; found {value!r}. Type digits.") from error


def _ask(what: str, words: list[str]) -> Any:
    """The JSON that the command line answers with.

    Raises:
        SettingsError: it refused, in its own words.
        RunError: it answered nothing that can be read, or not in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "explorer", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE[what],
            env={**WAIT, **os.environ},
            check=False,
            start_new_session=True,  # scheduled as a worker is, not within the share of this server
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"Expected an answer within {PATIENCE[what]:.0f} s; found none. Try it in a terminal, or when the machine is idle."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in what was typed
        raise RunError(
            f"Expected to ask the command line; found: {error}. Close other programs and try again."
        ) from error
    if done.returncode == 2:
        raise SettingsError(done.stderr.strip().split("Error: ", 1)[-1])
    try:
        if done.returncode == 0:
            return json.loads(done.stdout)
    except ValueError:
        pass
    raise RunError(
        f"Expected an answer of the command line; found exit code {done.returncode}: {done.stderr.strip()[-LAST_WORDS:]} "
        "Try the same in a terminal."
    )
