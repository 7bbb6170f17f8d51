"""How far does it help to take the most suspect examples out, a few at a time? Requests for the loop, and its rounds so far.

Reads and writes small files; `explorer.jobs.cleaning_stage` trains, `explorer.cleaning` is the loop. Loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from explorer.errors import SettingsError
from explorer.jobs.requests import check_finished, check_one_answer, check_training, folders, key_of
from explorer.store import Run, read_json, write_json

STAGE, FOLDER = "cleaning", "cleaning"
ROUNDS = "rounds.json"
MOST = 0.5
"""Share of the training set that all rounds together may take out."""


@dataclass(frozen=True)
class Cleaning:
    """Take out `share` of the training set a round, up to `rounds` times, until `patience` rounds in a row bring no lower
    loss on half of the test examples; every round trains `seeds` models, and as many without random others.

    Raises:
        SettingsError: a number out of its range.
    """

    share: float = 0.02
    rounds: int = 10
    patience: int = 2
    seeds: int = 5

    def __post_init__(self) -> None:
        if not self.share > 0 or self.rounds < 1 or self.share * self.rounds > MOST:
            raise SettingsError(
                f"Expected a share > 0 and rounds >= 1 that remove at most {MOST:g} of the examples together; found "
                f"{self.share!r} in {self.rounds} rounds. Remove less a round, or in fewer."
            )
        for name in ("patience", "seeds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"Expected {name} >= 1; found {getattr(self, name)}. Ask for one or more.")


@dataclass(frozen=True)
class Asked:
    """One request: its name, what it is, its `rounds` so far (`explorer.cleaning.Round` as JSON), whether the loop is over,
    the number of the round to keep so far (None before the first), what was gained by it (`explorer.cleaning.summary`), why
    there is nothing, and the folder with `cleaned.npz` and `changes.csv` once it is over."""

    key: str
    cleaning: Cleaning
    rounds: list[dict[str, Any]]
    complete: bool
    stopped_at: int | None
    summary: dict[str, Any]
    left_out: str
    folder: Path


def ask(run: Run, cleaning: Cleaning) -> str:
    """Have the next worker of the run do the loop, and its name; the same request has the same name, and is done once.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
        SettingsError: its weights were given, so there is no training to repeat.
    """
    check_training(run, "Clean")
    check_finished(run, "Clean")
    check_one_answer(run, "Cleaning")
    told = asdict(cleaning)
    key = key_of(told)
    if not run.has(f"{FOLDER}/{key}/asked.json"):
        write_json(run.path / FOLDER / key / "asked.json", told)
    return key


def listed(run: Run) -> list[Asked]:
    """All requests, the one asked last coming first."""
    return [_read(folder) for folder in reversed(folders(run, FOLDER))]


def pending(run: Run) -> bool:
    """Whether one of them is not over."""
    return unanswered(run) is not None


def unanswered(run: Run) -> Asked | None:
    """The first request whose loop is not over."""
    return next((asked for folder in folders(run, FOLDER) if not (asked := _read(folder)).complete), None)


def _read(folder: Path) -> Asked:
    told = read_json(folder / "asked.json")
    found = read_json(folder / ROUNDS) if (folder / ROUNDS).exists() else {}
    summary: dict[str, Any] = found.get("summary", {})
    return Asked(
        key=folder.name,
        cleaning=Cleaning(**told),
        rounds=found.get("rounds", []),
        complete=bool(found.get("complete", False)),
        stopped_at=summary.get("stopped_at"),
        summary=summary,
        left_out=str(found.get("left_out", "")),
        folder=folder,
    )
