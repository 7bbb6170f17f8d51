"""May more be asked of this run than its scores, and under which name is it kept? What all requests of finished runs share.

Reads small files and says in words why not; it measures nothing and loads nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explorer.errors import RunError, SettingsError
from explorer.jobs.state import read_state
from explorer.store import Run

LAST = "neighbors.json"
"""The last file of a run's own stages: what is asked comes after it."""
KEY_LENGTH = 12


def in_memory(run: Run) -> bool:
    """Whether the run was made from objects of a Python process, which no file brings back."""
    return bool(run.spec["source"].get("kind") == "memory")


def weights_given(run: Run) -> bool:
    """Whether the weights come from elsewhere, so that there is no training to repeat."""
    return in_memory(run) or "weights" in run.spec["model"]


def check_files(run: Run) -> None:
    """Raises `RunError` where data and model cannot be had again from files."""
    if in_memory(run):
        raise RunError(
            f"Expected a run that can be trained again from files; found {run.key}, made from objects of a Python process. "
            "Use explorer.retraining there."
        )


def check_training(run: Run, todo: str) -> None:
    """Raises unless the run's training can be repeated; `todo` is what to do, beginning with a verb.

    Raises:
        RunError: the run was made from objects in memory.
        SettingsError: its weights were given.
    """
    check_files(run)
    if weights_given(run):
        raise SettingsError(
            f"Expected a run that trained its model; found {run.key}, whose weights were given: there is no training to "
            f"repeat. {todo} a run without --weights."
        )


def check_one_answer(run: Run, what: str) -> None:
    """Raises `SettingsError` for a run of sequences, which have an answer at every position; `what` begins the refusal."""
    if run.has("data.json") and run.meta().task == "sequence":
        raise SettingsError(
            f"{what} expects one target an example; found {run.key}, a run of sequences. Ask it for its evidence, its check, or "
            "what retraining on random subsets measures."
        )


def check_finished(run: Run, todo: str) -> None:
    """Raises `RunError` unless the run's own stages are done, whatever became of a request after them."""
    if not run.has(LAST):
        state = read_state(run.path).state
        raise RunError(
            f"Expected a run that is done; found {run.key}, which is {state}. Finish it, then {todo.lower()} it."
        )


def key_of(values: Mapping[str, Any]) -> str:
    """The name of a request: 12 hex digits of the hash of its canonical JSON."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def folders(run: Run, kind: str) -> list[Path]:
    """The folders of all requests of a kind, the one asked first coming first."""
    asked = (run.path / kind).glob("*/asked.json")
    return [file.parent for file in sorted(asked, key=lambda file: (file.stat().st_mtime_ns, file.parent.name))]
