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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import ImagePreview, Preview, TablePreview, Target, TextPreview
from explorer.errors import RunError, SettingsError
from explorer.jobs import lesson
from explorer.jobs.frames import Frame
from explorer.jobs.helper import Helper
from explorer.jobs.lesson import Lesson
from explorer.jobs.requests import check_one_answer
from explorer.laboratory.settings import OptimizerName, Teaching
from explorer.questions import question
from explorer.sources.edited import Edit
from explorer.store import Row, Run, TopList

TRACE = "metagradient"
"""The method that goes back through a run's own training, and the `method` of a question that asks for it."""
LIMIT = 60.0
"""Seconds after which a question is given up."""
LESSON_LIMIT = 300.0
"""The same of a lesson, which runs the network over all examples twice."""
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
    included. `classes` are those that a margin or a contrast is about.
    """

    top: TopList
    row: Row
    prediction: int | float | str
    label: int | float | str
    confidence: float
    loss: float
    wrong: bool
    probabilities: NDArray[np.float32] | None
    preview: Preview
    target: Target
    seconds: float
    classes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Traced:
    """What a run's own training made of one prediction; arrays are read-only, because askers share them.

    `top.agreement` and `top.overlap` compare it with the run's own method: rank correlation over all training examples,
    and the share of the 10 strongest of each sign. `steps` were gone back through, in `seconds`.
    """

    top: TopList
    row: Row
    steps: int
    seconds: float


@dataclass(frozen=True)
class UnderWay:
    """A trace that is not finished: its share done in 0..1, what is done now, seconds left (None: not known yet)."""

    share: float
    note: str
    seconds_left: float | None


def ask(
    run: Run,
    query: int,
    target: Target,
    edit: Edit | None = None,
    limit: float | None = None,
    classes: tuple[int, ...] = (),
) -> Answer:
    """The answer for a test row, as it is or edited; blocks until it is there, or `limit` seconds (default `LIMIT`).

    `classes` are the numbers of those that a margin or a contrast is about.

    Raises:
        RunError: the run cannot be asked (`obstacle` says why), its worker ended, or the answer takes too long.
        SettingsError: no such test row, target or classes, or the edit does not fit the example.
        ExplorerError: the data, code or weights of the run are not those that it was computed from.
    """
    began = time.monotonic()
    seconds = LIMIT if limit is None else limit
    _check(run, query, target, classes)
    wanted = {"query": int(query), "target": target, "classes": list(classes), "edit": (edit or Edit()).spec()}
    found = _asked(run, wanted, seconds, lambda frame: _answer(frame, target, classes, began))
    assert isinstance(found, Answer)
    return found


def teach(
    run: Run,
    *,
    train_row: int | None = None,
    test_row: int | None = None,
    label: float | None = None,
    optimizer: OptimizerName = "sgd",
    steps: int = 1,
    rate: float | None = None,
    limit: float | None = None,
) -> Lesson:
    """What a copy of the model says of every training and test example after a lesson in one of them; the run stays as it is.

    Name a training or a test row; `label` teaches another than its own (a class number, or a value of a regression). A
    `rate` that is not given is searched once for the run. Blocks until it is there, or `limit` seconds (default `LESSON_LIMIT`).

    Raises:
        RunError: as `ask`.
        SettingsError: neither row or both, a row or settings out of range, or a lesson that was too large a step.
        DataError: a label that the model does not have.
    """
    found = obstacle(run)
    if found is not None:
        raise RunError(found)
    check_one_answer(run, "Teaching a lesson")
    if (train_row is None) == (test_row is None):
        raise SettingsError(
            f"Expected a training row or a test row to teach; found {'neither' if train_row is None else 'both'}. Name one."
        )
    Teaching(optimizer, steps, rate)  # checked before a worker is started
    wanted = {"method": lesson.METHOD, "train_row": train_row, "test_row": test_row, "label": label}
    wanted |= {"optimizer": optimizer, "steps": steps, "rate": rate}
    taught = _asked(run, wanted, LESSON_LIMIT if limit is None else limit, lesson.read)
    assert isinstance(taught, Lesson)
    return taught


def trace(run: Run, query: int, target: Target, limit: float | None = None) -> Traced | UnderWay:
    """What the run's own training made of a test row, through every step of it, or how far the worker is with that.

    Asking begins it, and asking again a few times a second keeps it going: the worker drops what nobody asks for any
    more, and answers other questions in between. Waits for one step at most once the worker is loaded.

    Raises:
        RunError: as `ask`.
        SettingsError: no such test row or target, or the states of the training do not fit into memory.
        ModelError: the weights come from elsewhere, or the training cannot be repeated (dropout, batch norm).
    """
    _check(run, query, target)
    question = {"query": int(query), "target": target, "method": TRACE}
    found = _asked(run, question, LIMIT if limit is None else limit, _trace)
    assert isinstance(found, Traced | UnderWay)
    return found


def trace_obstacle(run: Run) -> str | None:
    """Why a run cannot be traced, in words, as far as its spec tells; None when it can be tried."""
    found = obstacle(run)
    if found is None and "weights" in run.spec["model"]:
        return (
            f"Expected a run that trained its model itself, to go back through its training; found {run.key}, made with "
            "weights from a file. Start a run without --weights to trace its predictions."
        )
    return found


def _asked(run: Run, question: dict[str, Any], seconds: float, read: Callable[[Frame], Said]) -> Said:
    """What is remembered of a question, or what `read` makes of the worker's frame, which is remembered if final."""
    began = time.monotonic()
    key = (str(run.path), json.dumps(question))
    kept: Said | None = _answers.get(key)
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
                said = kept = read(helper.ask(question, began + seconds))
                if not isinstance(said, UnderWay):
                    _answers.put(key, said)
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


def _check(run: Run, query: int, target: Target, classes: tuple[int, ...] = ()) -> None:
    found = obstacle(run)
    if found is not None:
        raise RunError(found)
    meta = run.meta()
    question(meta.classes, target, classes)
    rows = meta.test
    if not 0 <= query < rows:
        raise SettingsError(f"Expected a test row in 0..{rows - 1}; found {query}. Choose another.")


def _trace(frame: Frame) -> Traced | UnderWay:
    if "going" in frame[0]:
        going = frame[0]["going"]
        return UnderWay(going["share"], going["note"], going["seconds_left"])
    facts = frame[0]["traced"]
    top, row = _kept(frame[1])
    return Traced(top, row, int(facts["steps"]), float(facts["seconds"]))


def _kept(arrays: dict[str, NDArray[Any]]) -> tuple[TopList, Row]:
    """The strongest examples and the int8 row; all arrays become read-only."""
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
    return top, Row(arrays["levels"], float(arrays["top.scale"][0]))


def _answer(frame: Frame, target: Target, classes: tuple[int, ...], began: float) -> Answer:
    facts, arrays = frame[0]["answer"], frame[1]
    top, row = _kept(arrays)
    return Answer(
        top=top,
        row=row,
        prediction=facts["prediction"],
        label=facts["label"],
        confidence=facts["confidence"],
        loss=facts["loss"],
        wrong=facts["wrong"],
        probabilities=arrays.get("probabilities"),
        preview=_preview(facts, arrays),
        target=target,
        seconds=time.monotonic() - began,
        classes=classes,
    )


def _preview(facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Preview:
    if "pixels" in arrays:
        return ImagePreview(arrays["pixels"])
    if "prompt" in facts:
        return TextPreview(facts["prompt"], facts["continuation"])
    return TablePreview(tuple(facts["names"]), arrays["values"], arrays["unusual"])


Final = Answer | Traced | Lesson
"""What is remembered."""
Said = Answer | Traced | Lesson | UnderWay
"""What the worker says."""


class _Answers:
    """The answers that were used last, in a bounded number and in bounded bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[tuple[str, str], Final] = OrderedDict()

    def get(self, key: tuple[str, str]) -> Final | None:
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def put(self, key: tuple[str, str], answer: Final) -> None:
        with self._lock:
            self._by_key[key] = answer
            while len(self._by_key) > 1 and (len(self._by_key) > KEPT or self._bytes() > KEPT_BYTES):
                self._by_key.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._by_key.clear()

    def _bytes(self) -> int:
        return sum(_size(answer) for answer in self._by_key.values())


def _size(answer: Final) -> int:
    """Bytes of what grows with the data: the row, and the picture or the values."""
    if isinstance(answer, Lesson):
        return answer.nbytes
    if isinstance(answer, Traced):
        return answer.row.values.nbytes
    preview = answer.preview
    parts = [value for value in vars(preview).values() if isinstance(value, np.ndarray)]
    return answer.row.values.nbytes + sum(part.nbytes for part in parts)


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
