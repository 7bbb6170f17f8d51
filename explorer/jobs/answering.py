"""What would the job have written for this input? The warm worker of one run: loads it once, answers until not needed.

Restores what the job fitted, so that no question runs the network over the training set, but for those that go back
through it (`method` "metagradient"), which are worked on between the others. Writes nothing to the run.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from explorer.contracts import TARGETS, Dataset, Examples, Fitted, ImagePreview, Subject, Target, TextPreview
from explorer.errors import ExplorerError, SettingsError
from explorer.jobs import lesson, predictions
from explorer.jobs.frames import Frame, Reader, send
from explorer.jobs.layer_names import method_for
from explorer.jobs.pipeline import second_opinion
from explorer.jobs.planning import ingredients_of
from explorer.jobs.process import usable_cores
from explorer.jobs.records import identity
from explorer.jobs.scoring import score_block
from explorer.jobs.subject import subject_of
from explorer.jobs.teaching import Teacher
from explorer.jobs.tracing import METHOD, Asked, Tracer, refusal
from explorer.questions import Question
from explorer.sources.edited import Edit, edited
from explorer.store import Run, read_json
from explorer.store.run import BLOCK

GLANCE = 0.001
"""Seconds that work between questions waits for one; a reader given none would not look at all."""
COPIES = 4
"""Times that an example is run at once. Products of fewer rows take other routines of the matrix library than a job's
blocks and round differently; from four on the numbers were measured to be those of the job, to the bit."""


@dataclass(frozen=True)
class Warm:
    """A run in memory: data, model, and both fitted methods."""

    run: Run
    dataset: Dataset
    subject: Subject
    reader: predictions.Reader
    fitted: Fitted
    second: Fitted | None
    seed: int

    @classmethod
    def load(cls, run: Run) -> Warm:
        """Restore what the job of a run fitted.

        Raises:
            ExplorerError: the run belongs to objects of another process, or its data, model code or weights are not
                those that it was computed from.
        """
        dataset, subject = subject_of(run, ingredients_of(run))
        method = method_for(dataset.task, run.spec["method"])
        tensors = safetensors.torch.load_file(run.path / "fitted.safetensors")
        fitted = method.restore(subject, tensors, read_json(run.path / "fitted.json"))
        return cls(
            run,
            dataset,
            subject,
            predictions.reader_of(subject),
            fitted,
            second_opinion(fitted, subject),
            int(run.spec["seed"]),
        )

    def answer(self, settings: dict[str, Any]) -> Frame:
        """Top lists, int8 row and outcome of one question: `query` (a test row), `target` with its `classes`, `edit` as spec."""
        began = time.perf_counter()
        row = self.test_row(settings["query"])
        example = edited(self.dataset.test, row, Edit.from_spec(settings["edit"]))
        copies, at = self._place(row, settings["target"])
        asked = Question(settings["target"], tuple(settings.get("classes", ())))
        queries = asked.about(example, np.zeros(copies, dtype=np.int64))
        kept, levels = score_block(self.fitted, self.second, queries, len(self.dataset.train), self.seed)
        outcome, arrays = self._outcome(example, row)
        preview = example.preview(0)
        if isinstance(preview, ImagePreview):
            arrays["pixels"] = preview.pixels
        elif isinstance(preview, TextPreview):
            outcome |= {"prompt": preview.prompt, "continuation": preview.continuation}
        else:
            outcome["names"] = list(preview.names)
            arrays |= {"values": preview.values, "unusual": preview.unusual}
        arrays |= {f"top.{name}": values[at : at + 1] for name, values in kept.items()}
        arrays["levels"] = levels[at]
        return {"answer": outcome, "seconds": time.perf_counter() - began}, arrays

    def test_row(self, said: object) -> int:
        """A row that was asked about; a `SettingsError` if there is none such."""
        if not isinstance(said, int) or not 0 <= said < len(self.dataset.test):
            raise SettingsError(f"Expected a test row in 0..{len(self.dataset.test) - 1}; found {said!r}.")
        return said

    def _place(self, row: int, target: Target) -> tuple[int, int]:
        """How many copies to score and which of them is told; where no job scores the query, a full block's first."""
        place = self.run.resolve(row, target) if target in TARGETS else None
        return (COPIES, 0) if place is None else _like(place[1], len(self.run.plan(place[0])), BLOCK)

    def _outcome(self, example: Examples, row: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Prediction, confidence, loss and whether it is wrong, as in the table of queries; probabilities of classes."""
        copies, at = _like(row, len(self.dataset.test), self.reader.block)
        said = self.reader.read(example, np.zeros(copies, dtype=np.int64))
        found = said.outcomes.iloc[[at]].assign(label=identity(example)["label"].to_numpy())
        facts = {str(name): _plain(found[name].to_numpy()[0]) for name in found}
        if self.dataset.task != "classification" or said.outputs is None:
            return facts, {}
        return facts, {"probabilities": said.outputs[at].softmax(0).float().numpy()}


def _like(position: int, total: int, block: int) -> tuple[int, int]:
    """The fewest copies, and which of them, that are rounded like `position` of `total` rows run in blocks.

    Rows round differently in a block of fewer than four, and by where they begin in memory: every fourth alike.
    """
    begin = position // block * block
    copies = min(COPIES, total - begin)
    return copies, (position - begin) % copies


def _plain(value: Any) -> Any:
    """A number or a text as JSON takes it."""
    return value if isinstance(value, str) else value.item()


def serve(run: Run, idle: float) -> None:
    """Answer questions from standard input on standard output until it is closed or nothing is asked for `idle` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for whoever asks; this ends with its pipe
    questions, answers = _private_pipes()
    threading.Thread(target=_end_with, args=(questions,), daemon=True).start()
    torch.set_num_threads(max(1, usable_cores() - 1))
    reader = Reader(questions)
    try:
        warm = Warm.load(run)
    except ExplorerError as error:
        send(answers, refusal(error))
        return
    send(answers, {"ready": True})
    tracer, teacher = Tracer(warm.subject, warm.dataset, warm.fitted, warm.seed), Teacher(warm.subject, warm.dataset)

    def reply(seconds: float) -> bool:
        """Answer one question that comes within so many seconds; False when nobody can ask any more."""
        question = reader.next(seconds)
        if question is not None:
            send(answers, *_reply(warm, tracer, teacher, question[0]))
        return question is not None

    def reply_to_all() -> None:
        with suppress(TimeoutError):
            while reply(GLANCE):
                pass

    try:
        while reply(idle):
            while tracer.waiting:
                tracer.work(reply_to_all)
    except (TimeoutError, BrokenPipeError):
        return


def _reply(warm: Warm, tracer: Tracer, teacher: Teacher, settings: dict[str, Any]) -> Frame:
    try:
        if settings.get("method") == lesson.METHOD:
            return teacher.answer(settings)
        if settings.get("method") == METHOD:
            return tracer.told(Asked(warm.test_row(settings["query"]), settings["target"]))
        return warm.answer(settings)
    except Exception as error:  # noqa: BLE001 - one question that fails must not cost the others their warm worker
        return refusal(error), {}


def _private_pipes() -> tuple[int, int]:
    """Standard input and output under numbers of their own; what model code prints goes to standard error."""
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return questions, answers


def _end_with(pipe: int) -> None:
    """End this process as soon as nobody can ask any more, also in the middle of loading."""
    watch = select.poll()
    watch.register(pipe, 0)  # hang-ups are always told
    while not watch.poll():
        pass
    os._exit(0)
