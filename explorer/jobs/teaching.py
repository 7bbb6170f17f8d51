"""What would one lesson more change, at every point of this run? Lessons for the warm worker, one example at a time.

Keeps the rates that it found; the model of the run stays as it is. Knows no pipes and no files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Dataset, Examples, Preview, Queries, Subject
from explorer.errors import SettingsError
from explorer.jobs.frames import Frame
from explorer.jobs.laboratory import SAMPLES, spread
from explorer.jobs.scoring import CLIP, quantize
from explorer.jobs.threads import threads, training_threads
from explorer.laboratory.lessons import Array64, Lessons
from explorer.laboratory.settings import Teaching
from explorer.laboratory.teaching import Bench, find_rate

TOP = 10
"""Rows of each list of those that changed most."""


@dataclass(frozen=True, eq=False)
class Both:
    """Training examples and, after them, test examples."""

    train: Examples
    test: Examples

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    @property
    def key(self) -> str:
        """Both keys."""
        return f"{self.train.key}+{self.test.key}"

    @property
    def ids(self) -> NDArray[np.str_]:
        """Those of the training examples, then of the test examples, `[n]`; an id may be among both."""
        return np.concatenate([self.train.ids, self.test.ids])

    @property
    def labels(self) -> NDArray[Any]:
        """Those of both, `[n]`."""
        return np.concatenate([self.train.labels, self.test.labels])

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Inputs in the order of the rows."""
        first = rows < len(self.train)
        if first.all():
            return self.train.batch(rows)
        if not first.any():
            return self.test.batch(rows - len(self.train))
        train, test = self.train.batch(rows[first]), self.test.batch(rows[~first] - len(self.train))
        mixed = train.new_empty((len(rows), *train.shape[1:]))
        mixed[torch.from_numpy(first)], mixed[torch.from_numpy(~first)] = train, test
        return mixed

    def preview(self, row: int) -> Preview:
        """What a person sees of one of them."""
        return self.train.preview(row) if row < len(self.train) else self.test.preview(row - len(self.train))


class Teacher:
    """Teaches one example of a run at a time and measures all of them; `answer` takes a question, JSON as it came.

    A rate that is not given is searched once on as many training examples as an experiment has by default, so that
    lessons compare: an example that the model knows by heart changes little.
    """

    def __init__(self, subject: Subject, data: Dataset) -> None:
        self._subject, self._data = subject, data
        self._both = Both(data.train, data.test)
        self._rates: dict[Teaching, float] = {}

    def answer(self, question: dict[str, Any]) -> Frame:
        """The lesson for `train_row` or `test_row`, `label` (None: its own), `optimizer`, `steps` and `rate`.

        Cost: twice a pass over all examples and a few steps; the first time a search for the rate too.

        Raises:
            SettingsError: no such row or label, or a lesson that was too large a step.
        """
        with threads(training_threads(self._subject.model, SAMPLES)):
            return self._answer(question)

    def _answer(self, question: dict[str, Any]) -> Frame:
        began = time.perf_counter()
        row = self._row(question)
        settings = Teaching(question["optimizer"], question["steps"], question["rate"], first_order=False)
        if settings.rate is None:
            settings = replace(settings, rate=self._rate(settings))
        every = Queries(self._both, np.arange(len(self._both), dtype=np.int64))
        bench = Bench(self._subject, Lessons(self._both, np.array([row]), self._labels(question)), every, settings)
        part = bench.run(np.zeros(1, dtype=np.int64))
        if part.failed:
            raise SettingsError(part.failed[0])
        change = np.where(np.isfinite(part.values[0]), part.values[0], 0.0)
        scale = float(np.quantile(np.abs(change), CLIP))
        arrays: dict[str, NDArray[Any]] = {}
        for name, some in self._splits(row, change, bench.before):
            arrays |= _strongest(name, *some)
        train = len(self._data.train)
        for name, own in (("train", change[:train]), ("test", change[train:])):
            arrays[name] = np.zeros(len(own), dtype=np.int8)
            quantize(own.astype(np.float32), np.float32(scale), arrays[name])
        assert settings.rate is not None
        facts = {
            "rate": settings.rate,
            "scale": scale,
            "words": f"{settings.words}, rate {settings.rate:.2g}",
            "own_loss": [float(loss) for loss in part.own_loss[0]],
            "resolution": bench.resolution,
            "seconds": time.perf_counter() - began,
        }
        return {"lesson": facts}, arrays

    def _row(self, question: dict[str, Any]) -> int:
        """Where the example is among both."""
        for name, examples, before in (
            ("train_row", self._data.train, 0),
            ("test_row", self._data.test, len(self._data.train)),
        ):
            said = question[name]
            if said is None:
                continue
            if not isinstance(said, int) or not 0 <= said < len(examples):
                raise SettingsError(f"Expected {name} in 0..{len(examples) - 1}; found {said!r}. Choose another.")
            return before + said
        raise SettingsError("Expected a training row or a test row to teach; found neither. Name one.")

    def _labels(self, question: dict[str, Any]) -> NDArray[Any] | None:
        said = question["label"]
        return None if said is None else np.array([said], dtype=np.asarray(self._data.train.labels).dtype)

    def _rate(self, settings: Teaching) -> float:
        if settings not in self._rates:
            rows = spread(np.asarray(self._data.train.labels), SAMPLES, by_class=self._data.task == "classification")
            found = find_rate(self._subject, Lessons(self._data.train, np.array(rows)), settings)
            assert found.rate is not None
            self._rates[settings] = found.rate
        return self._rates[settings]

    def _splits(self, row: int, change: Array64, before: Array64) -> list[tuple[str, tuple[Array64, Array64, int]]]:
        """Changes and measures before of both splits, and where the example itself is there (−1: nowhere)."""
        train = len(self._data.train)
        return [
            ("train", (change[:train], before[:train], row if row < train else -1)),
            ("test", (change[train:], before[train:], row - train if row >= train else -1)),
        ]


def _strongest(name: str, change: Array64, before: Array64, itself: int) -> dict[str, NDArray[Any]]:
    """The rows that improved and worsened most, without the example itself."""
    found: dict[str, NDArray[Any]] = {}
    for word, sign in (("improved", 1), ("worsened", -1)):
        order = np.argsort(-sign * change, kind="stable")
        rows = order[(sign * change[order] > 0) & (order != itself)][:TOP].astype(np.int64)
        found |= {f"{name}.{word}.rows": rows, f"{name}.{word}.change": change[rows]}
        found[f"{name}.{word}.before"] = before[rows]
    return found
