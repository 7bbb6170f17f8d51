"""How much is each example memorized, by models trained without it? The request for a time or a number of models, and what came out.

Reads and writes small files; `explorer.jobs.subset_stage` trains. Loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from explorer import memorization
from explorer.errors import SettingsError
from explorer.jobs.requests import check_finished, check_training
from explorer.memorization.subsets import FEWEST, Tally
from explorer.store import Run, bundle, read_json, write_json

STAGE = "subset models"
ASKED, TALLY, LEFT_OUT = "subset-asked.json", "subset-tally.safetensors", "subset-left-out.json"
SECONDS = 120.0
"""Budget that is asked for where nobody says otherwise."""


@dataclass(frozen=True)
class SubsetRequest:
    """As many models as fit into some `seconds` more, or `models` in all.

    Raises:
        SettingsError: neither, fewer than `FEWEST` models, or no time.
    """

    models: int | None = None
    seconds: float | None = SECONDS

    def __post_init__(self) -> None:
        if self.models is not None:
            object.__setattr__(self, "seconds", None)
            if self.models < FEWEST:
                raise SettingsError(
                    f"Expected {FEWEST} models or more; found {self.models}. Below that an estimate says nothing."
                )
        elif self.seconds is None or not 0 < self.seconds < float("inf"):
            raise SettingsError(
                f"Expected a number of models or seconds > 0; found {self.seconds!r} seconds. Ask for {SECONDS:g}."
            )


@dataclass(frozen=True, eq=False)
class Found:
    """The estimate from the models counted so far, how many are planned in all, and whether the request is answered."""

    estimate: memorization.Estimate
    planned: int
    complete: bool


def ask(run: Run, request: SubsetRequest) -> None:
    """Have the next worker train subset models; more of them where some were trained before.

    A time asked for again, once it is used up, is so much time more. Asking starts nothing.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
        SettingsError: its weights were given, so there is no training to repeat.
    """
    check_training(run, "Measure")
    check_finished(run, "Measure")
    if asked(run) != request or (request.seconds is not None and not pending(run)):
        known = tally(run)
        write_json(run.path / ASKED, asdict(request) | {"after": 0 if known is None else known.done})


def asked(run: Run) -> SubsetRequest | None:
    """What was asked last, if anything."""
    told = _asked(run)
    return None if told is None else SubsetRequest(told["models"], told["seconds"])


def found(run: Run) -> Found | None:
    """What came out so far; None before the first models are counted."""
    known = tally(run)
    if known is None:
        return None
    wanted, (_, planned) = asked(run), standing(run)
    models = wanted.models if wanted is not None else None
    return Found(known.estimate(), max(models or planned, known.done), not pending(run))


def pending(run: Run) -> bool:
    """Whether models are asked for that are not trained, and were not left out."""
    told = _asked(run)
    if told is None or _refused(run, told):
        return False
    known = tally(run)
    if told["models"] is not None:
        return known is None or known.done < told["models"]
    after, planned = standing(run)
    return known is None or after != told["after"] or known.done < planned


def left_out(run: Run) -> str:
    """Why no models could be trained, in words; nothing where they could."""
    told = _asked(run)
    return _refused(run, told) if told is not None else ""


def tally(run: Run) -> Tally | None:
    """The counts so far."""
    return Tally.restored(bundle(run.path / TALLY)) if run.has(TALLY) else None


def standing(run: Run) -> tuple[int, int]:
    """How many models there were when the last time budget began, and how many it plans; (-1, 0) before any."""
    if not run.has(TALLY):
        return -1, 0
    arrays = bundle(run.path / TALLY)
    return int(arrays["after"][0]), int(arrays["planned"][0])


def arrays_of(counts: Tally, after: int, planned: int) -> dict[str, Any]:
    """What the file of counts holds."""
    numbers = {"after": np.array([after], dtype=np.int64), "planned": np.array([planned], dtype=np.int64)}
    return counts.arrays() | numbers


def _asked(run: Run) -> dict[str, Any] | None:
    told: dict[str, Any] | None = read_json(run.path / ASKED) if run.has(ASKED) else None
    return told


def _refused(run: Run, told: dict[str, Any]) -> str:
    if not run.has(LEFT_OUT):
        return ""
    refused = read_json(run.path / LEFT_OUT)
    return str(refused["reason"]) if refused["asked"] == told else ""
