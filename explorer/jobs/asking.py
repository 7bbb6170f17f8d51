"""How is a question answered that no job has answered yet? By a warm worker process of the run, and never twice.

Keeps the workers and remembers answers; computes nothing and never loads torch. Any number of threads may ask:
questions to one run are answered one after the other.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import TARGETS, ImagePreview, Preview, TablePreview, Target
from explorer.errors import RunError, SettingsError
from explorer.jobs.frames import Frame
from explorer.jobs.helper import Helper
from explorer.sources.edited import Edit
from explorer.store import Row, Run, TopList

LIMIT = 60.0
"""Seconds after which a question is given up."""
WORKERS = 2
"""Warm workers of one server process; the least recently used one is stopped for another."""
KEPT = 64
"""Answers remembered, the least recently used forgotten first."""
KEPT_BYTES = 64_000_000
"""Bytes of all remembered answers; one of a million training examples has one megabyte."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a job would have written for one input; arrays are read-only, because askers share them.

    `probabilities` are float32 `[classes]`, None for regression, where `confidence` is NaN and `wrong` is False.
    `loss` is that of the example's own label. `seconds` is what it took when it was computed, the start of a worker
    included.
    """

    top: TopList
    row: Row
    prediction: int | float
    label: int | float
    confidence: float
    loss: float
    wrong: bool
    probabilities: NDArray[np.float32] | None
    preview: Preview
    target: Target
    seconds: float


def ask(run: Run, query: int, target: Target, edit: Edit | None = None, limit: float | None = None) -> Answer:
    """The answer for a test row, as it is or edited; blocks until it is there, or `limit` seconds (default `LIMIT`).

    Raises:
        RunError: the run cannot be asked (`obstacle` says why), its worker ended, or the answer takes too long.
        SettingsError: no such test row or target, or the edit does not fit the example.
        ExplorerError: the data, code or weights of the run are not those that it was computed from.
    """
    began = time.monotonic()
    seconds = LIMIT if limit is None else limit
    _check(run, query, target)
    question = {"query": int(query), "target": target, "edit": (edit or Edit()).spec()}
    key = (str(run.path), json.dumps(question))
    kept = _answers.get(key)
    while kept is None:
        helper = _helpers.of(run.path)
        with helper.held(began + seconds) as mine:
            if not mine:
                raise RunError(
                    f"Expected an answer of run {run.key} within {seconds:g} s; found its worker busy with other "
                    "questions. Ask again in a moment."
                )
            kept = _answers.get(key)  # another thread may have asked the same meanwhile
            if kept is None and not helper.retired:
                kept = _answer(helper.ask(question, began + seconds), target, began)
                _answers.put(key, kept)
    return kept


def warm(run: Run) -> None:
    """See that a worker of the run is loading or ready, without waiting; a run that cannot be asked is left alone."""
    if obstacle(run) is None:
        helper = _helpers.of(run.path)
        threading.Thread(target=helper.prepare, args=(time.monotonic() + LIMIT,), daemon=True).start()


def obstacle(run: Run) -> str | None:
    """Why a run cannot be asked, in words; None when it can."""
    if run.spec["source"]["kind"] == "memory":
        return (
            f"Expected a run that can be rebuilt from files; found {run.key}, made by explorer.show from objects of a "
            "Python process. Call explorer.show (to go on) or explorer.explain (for a table) there again."
        )
    if not all(run.has(name) for name in ("model.safetensors", "fitted.safetensors", "fitted.json")):
        return (
            f"Expected a run whose model is trained and whose influence is fitted; found {run.key} unfinished. "
            f"Go on with `explorer resume {run.key}`, then ask."
        )
    return None


def stop() -> None:
    """End every warm worker and forget every answer."""
    _helpers.end()
    _answers.clear()


def _check(run: Run, query: int, target: Target) -> None:
    found = obstacle(run)
    if found is not None:
        raise RunError(found)
    if target not in TARGETS:
        raise SettingsError(f"Expected target to be one of {', '.join(TARGETS)}; found {target!r}.")
    rows = run.meta().test
    if not 0 <= query < rows:
        raise SettingsError(f"Expected a test row in 0..{rows - 1}; found {query}. Choose another.")


def _answer(frame: Frame, target: Target, began: float) -> Answer:
    facts, arrays = frame[0]["answer"], frame[1]
    for name in ("top.towards", "top.away"):
        arrays[name] = arrays[name].astype(np.int64)
    for array in arrays.values():
        array.flags.writeable = False
    top = TopList(
        arrays["top.towards"][0],
        arrays["top.towards_influence"][0],
        arrays["top.away"][0],
        arrays["top.away_influence"][0],
        float(arrays["top.total"][0]),
        float(arrays["top.agreement"][0]),
        float(arrays["top.overlap"][0]),
    )
    return Answer(
        top=top,
        row=Row(arrays["levels"], float(arrays["top.scale"][0])),
        prediction=facts["prediction"],
        label=facts["label"],
        confidence=facts["confidence"],
        loss=facts["loss"],
        wrong=facts["wrong"],
        probabilities=arrays.get("probabilities"),
        preview=ImagePreview(arrays["pixels"])
        if "pixels" in arrays
        else TablePreview(tuple(facts["names"]), arrays["values"], arrays["unusual"]),
        target=target,
        seconds=time.monotonic() - began,
    )


class _Answers:
    """The answers that were used last, in a bounded number and in bounded bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[tuple[str, str], Answer] = OrderedDict()

    def get(self, key: tuple[str, str]) -> Answer | None:
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def put(self, key: tuple[str, str], answer: Answer) -> None:
        with self._lock:
            self._by_key[key] = answer
            while len(self._by_key) > 1 and (len(self._by_key) > KEPT or self._bytes() > KEPT_BYTES):
                self._by_key.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._by_key.clear()

    def _bytes(self) -> int:
        return sum(_size(answer) for answer in self._by_key.values())


def _size(answer: Answer) -> int:
    """Bytes of what grows with the data: the row, and the picture or the values."""
    preview = answer.preview
    shown = preview.pixels.nbytes if isinstance(preview, ImagePreview) else 2 * preview.values.nbytes
    return answer.row.values.nbytes + shown


class _Helpers:
    """The warm workers of this process by run, the most recently used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_path: OrderedDict[Path, Helper] = OrderedDict()

    def of(self, path: Path) -> Helper:
        """The worker of a run; where there are too many, the new one stops the least recently used before it starts."""
        with self._lock:
            helper = self._by_path.pop(path, None)
            if helper is None:
                left = [self._by_path.popitem(last=False)[1] for _ in range(len(self._by_path) + 1 - WORKERS)]
                helper = Helper(path, left)
            self._by_path[path] = helper
            return helper

    def end(self) -> None:
        with self._lock:
            helpers = list(self._by_path.values())
            self._by_path.clear()
        for helper in helpers:
            helper.retire(time.monotonic())


_answers = _Answers()
_helpers = _Helpers()
atexit.register(stop)
