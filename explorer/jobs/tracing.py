"""What did this run's own training make of one prediction? Traces for the warm worker, one after the other, between questions.

Keeps one replayed training for all of them and drops what nobody asks for any more. Knows no pipes and no files.
"""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from explorer.contracts import Dataset, Fitted, Progress, Queries, Subject, Target, silent
from explorer.errors import ExplorerError
from explorer.influence.metagradient import FittedMetagradient, Metagradient
from explorer.jobs.frames import Frame
from explorer.jobs.scoring import rank_agreement, score_block
from explorer.jobs.threads import threads, training_threads

METHOD = Metagradient.name
"""The `method` of a question that asks for a trace; `asking.TRACE`, which must not load torch, is the same word."""
PATIENCE = 10.0
"""Seconds after which a trace that nobody asks for any more is dropped; a page asks several times a second."""
ASIDE = 2.0
"""The same where another trace is waiting."""
KEPT = 4
"""Finished traces that are kept for whoever asks next; askers remember theirs."""
BACK = 3
"""Seconds of a step backwards for each of a step forwards (measured 3.3 for the digits MLP): only for the time left."""
PAUSE = 0.05
"""Seconds between two looks at whether something was asked."""
KNOWN = 0.02
"""Share done from which on the time left is told."""
ATTENTION = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION)
"""What torch chooses from by default; a trace does without fused attention, the questions in between do not."""


@dataclass(frozen=True)
class Asked:
    """The prediction to trace: a test row and a target."""

    query: int
    target: Target


class AbandonedError(Exception):
    """Raised between two steps of a trace that nobody asks for any more."""


class Tracer:
    """Traces of one run's predictions. `told` says what is known and computes nothing; `work` computes.

    Both run in the same thread: `work` calls its `between` again and again between two steps, where questions are
    answered, also by `told`. `own` is the run's own fitted method, with which a trace is compared.
    """

    def __init__(self, subject: Subject, data: Dataset, own: Fitted, seed: int) -> None:
        self._subject, self._data, self._own, self._seed = subject, data, own, seed
        self._fitted: FittedMetagradient | None = None
        self._wanted: OrderedDict[Asked, float] = OrderedDict()
        self._done: OrderedDict[Asked, Frame] = OrderedDict()
        self._at: tuple[Asked, dict[str, Any]] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a trace is wanted that is not done."""
        return bool(self._wanted)

    def told(self, asked: Asked) -> Frame:
        """The finished trace, or `going`: its share done, a note and the seconds left (null before they are known).

        Asking makes it wanted for the next `PATIENCE` seconds (`ASIDE` where others wait). A refusal is told once: who asks again tries again.
        """
        if asked in self._done:
            frame = self._done[asked]
            if "error" in frame[0]:
                del self._done[asked]
            return frame
        self._wanted[asked] = time.monotonic()
        if self._at is not None and self._at[0] == asked:
            return {"going": self._at[1]}, {}
        return {"going": _going(0.0, "starting" if self._at is None else "waiting for another trace of this run")}, {}

    def work(self, between: Callable[[], None]) -> None:
        """Compute the trace that was wanted first, unless nobody asks for it any more."""
        asked = next(iter(self._wanted))
        try:
            frame = self._trace(asked, between)
        except AbandonedError:
            return
        except Exception as error:  # noqa: BLE001 - one trace that fails must not cost the others their warm worker
            frame = refusal(error), {}
        finally:
            self._at = None
            self._wanted.pop(asked, None)
        self._done[asked] = frame
        while len(self._done) > KEPT:
            self._done.popitem(last=False)

    def _trace(self, asked: Asked, between: Callable[[], None]) -> Frame:
        """What is kept of the one row of scores, with its agreement with the run's own method over all examples."""
        began = time.perf_counter()
        queries = Queries(self._data.test, np.array([asked.query]), asked.target)
        told = self._listener(asked, between)
        told(0.0, "starting")
        with threads(_threads_of(self._subject)):
            first = 0.0
            if self._fitted is None:
                first = 1 / (1 + BACK)
                self._fitted = Metagradient().fit(self._subject, _part(told, 0.0, first))
            exact = self._fitted.score(queries, _part(told, first, 1.0)).values
        own = self._own.score(queries).values
        kept, levels = score_block(_known(exact), _known(own), queries, exact.shape[1], self._seed)
        kept["agreement"][0] = rank_agreement(exact[0].numpy(), own[0].numpy())  # over all, not over a job's sample
        arrays: dict[str, NDArray[Any]] = {f"top.{name}": values for name, values in kept.items()}
        facts = {"steps": int(self._fitted.stats["steps"]), "seconds": time.perf_counter() - began}
        return {"traced": facts}, arrays | {"levels": levels[0]}

    def _listener(self, asked: Asked, between: Callable[[], None]) -> Callable[[float, str], None]:
        """Says how far the trace is, lets questions be answered as if there were none, and ends what nobody waits for."""
        usual, began, last = torch.get_num_threads(), time.monotonic(), 0.0

        def told(share: float, note: str) -> None:
            nonlocal last
            now = time.monotonic()
            self._at = asked, _going(share, note, now - began)
            if now - last < PAUSE:
                return
            last = now
            with threads(usual), sdpa_kernel(list(ATTENTION)):
                between()
            if time.monotonic() - self._wanted[asked] > (PATIENCE if len(self._wanted) == 1 else ASIDE):
                raise AbandonedError

        return told


def refusal(error: Exception) -> dict[str, Any]:
    """What is told of a question that failed: an expected error as it is, any other as a `RunError`."""
    if isinstance(error, ExplorerError):
        return {"error": type(error).__name__, "message": str(error)}
    traceback.print_exception(error)
    return {
        "error": "RunError",
        "message": f"Expected an answer; found {type(error).__name__}: {error}. Ask about another example, and "
        "report this if the model is not your own code.",
    }


def _going(share: float, note: str, seconds: float = 0.0) -> dict[str, Any]:
    left = seconds * (1 - share) / share if share >= KNOWN else None
    return {"share": share, "note": note, "seconds_left": left}


def _part(told: Callable[[float, str], None], low: float, high: float) -> Progress:
    """Progress of one part of a trace, which goes from `low` to `high` of the whole."""

    def progress(done: int, total: int, note: str) -> None:
        told(low + (high - low) * done / max(1, total), note)

    return progress


@dataclass(frozen=True)
class _Known:
    """Scores `[query, train]` that are there already, as a method that says them: a copy, which may be used up."""

    values: Tensor

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> None:  # noqa: ARG002
        assert out is not None
        out.copy_(self.values)


def _known(values: Tensor) -> Fitted:
    return cast(Fitted, _Known(values))  # only `score` is asked of it


def _threads_of(subject: Subject) -> int:
    """As many threads as the training had: with more, small steps are many times slower on busy cores."""
    told = subject.training
    return torch.get_num_threads() if told is None else training_threads(subject.model, told.recipe.batch_size)
