"""What did an experiment find? Its files as the plain data of views: matrices, regime, scorecard, settings in words.

Reads what `explorer.jobs.laboratory` wrote; measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.jobs.laboratory import MATRIX, Experiment
from explorer.store.files import bundle
from explorer.store.run import Split
from explorer.ui.views.lab_score import Number, Regime, Score


@dataclass(frozen=True, eq=False)
class Matrices:
    """Effects `values[i, j]` of teaching training row `samples[i]` on row `probes[j]`, and their first order where asked for.

    `square`: the probes are the samples themselves, training rows; otherwise they are test rows.
    """

    values: NDArray[np.float64]
    first_order: NDArray[np.float64] | None
    samples: NDArray[np.int64]
    probes: NDArray[np.int64]
    square: bool

    @property
    def split(self) -> Split:
        """What the probes are rows of."""
        return "train" if self.square else "test"


def matrices(experiment: Experiment) -> Matrices | None:
    """The matrices of an experiment, None before they are there; treat them as read-only."""
    file = experiment.folder / MATRIX
    if not file.exists():
        return None
    return _matrices(str(file), experiment.asked.probes is None, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _matrices(file: str, square: bool, written: int) -> Matrices:  # noqa: ARG001 - part of the cache's key
    held = bundle(Path(file))
    return Matrices(held["values"], held.get("first_order"), held["samples"], held["probes"], square)


def scores(found: Mapping[str, Any], by: str = "") -> list[Score]:
    """The wishes on a scorecard; of a world only those told `by` "weights" or "prompt"."""
    return [score(told) for told in found.get("desiderata", ()) if not by or told.get("by") == by]


def score(told: Mapping[str, Any]) -> Score:
    """One wish."""
    parts, controls = ({str(name): number(one) for name, one in told[kind].items()} for kind in ("parts", "controls"))
    return Score(str(told["name"]), number(told), str(told["sentence"]), parts, controls)


def number(told: Mapping[str, Any]) -> Number:
    """A number of a file, where null stands for what is not defined."""
    value, low, high = (math.nan if told[name] is None else float(told[name]) for name in ("value", "low", "high"))
    return Number(value, low, high)


def regime(found: Mapping[str, Any]) -> Regime | None:
    """The badge; None where there was no first order to compare with."""
    told = found["linear"]
    return None if told is None else Regime(bool(told["linear"]), str(told["sentence"]))
