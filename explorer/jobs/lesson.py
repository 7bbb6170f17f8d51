"""What did the model say elsewhere after one example was taught once? The answer of the warm worker, as who asks gets it.

Plain data and its reader; `explorer.jobs.teaching` makes it. Loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.jobs.frames import Frame
from explorer.store import Row

METHOD = "teach"
"""The `method` of a question that asks for a lesson."""


@dataclass(frozen=True, eq=False)
class Changed:
    """Rows that a lesson changed most, strongest first: their `change` of the measure, and what it was `before`, `[k]`."""

    rows: NDArray[np.int64]
    change: NDArray[np.float64]
    before: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lesson:
    """The change of log p(label) (of the measure) of every point by one lesson; positive = it got better.

    `train` and `test` are int8 rows with one scale, so that colors compare: ±127 stands for ±`scale` and beyond, the
    quantile of |change| that maps of influence clip at too. `improved` and `worsened` are the test rows that changed
    most, `train_improved` and `train_worsened` the training rows, without the example itself. `own_loss` is its loss
    before and after. `resolution` is the change that rounding alone could make. `words` says how it was taught, at
    `rate`, in `seconds`. Arrays are read-only, because askers share them.
    """

    train: Row
    test: Row
    improved: Changed
    worsened: Changed
    train_improved: Changed
    train_worsened: Changed
    own_loss: tuple[float, float]
    rate: float
    resolution: float
    words: str
    seconds: float

    @property
    def nbytes(self) -> int:
        """Bytes of what grows with the data."""
        return self.train.values.nbytes + self.test.values.nbytes


def read(frame: Frame) -> Lesson:
    """The lesson in a worker's frame."""
    facts, arrays = frame[0]["lesson"], frame[1]
    for array in arrays.values():
        array.flags.writeable = False
    scale = float(facts["scale"])
    before, after = facts["own_loss"]
    return Lesson(
        train=Row(arrays["train"], scale),
        test=Row(arrays["test"], scale),
        improved=_changed(arrays, "test.improved"),
        worsened=_changed(arrays, "test.worsened"),
        train_improved=_changed(arrays, "train.improved"),
        train_worsened=_changed(arrays, "train.worsened"),
        own_loss=(float(before), float(after)),
        rate=float(facts["rate"]),
        resolution=float(facts["resolution"]),
        words=str(facts["words"]),
        seconds=float(facts["seconds"]),
    )


def _changed(arrays: dict[str, NDArray[Any]], name: str) -> Changed:
    return Changed(*(arrays[f"{name}.{part}"] for part in ("rows", "change", "before")))
