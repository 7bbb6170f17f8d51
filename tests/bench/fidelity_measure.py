"""What does one method answer, how long does it take and how much memory? Each in a process of its own, one thread.

Knows no truth: it hands back scores, suspicion of planted flips, seconds and megabytes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch

import numpy as np
import psutil
import torch

from tests.bench.fidelity_methods import Answer, Candidate, LeftOutError, as_numpy
from tests.bench.fidelity_numbers import Array
from tests.bench.fidelity_problems import problem
from tests.bench.fidelity_trained import Trained, noisy, trained
from tests.problems import TensorExamples

LIMIT_S = 280
"""Seconds after which a method is given up."""
LIMIT_MB = 10_000
"""Address space a method may add to what is there after loading."""
QUICK_S = 4.0
"""A first run below this is repeated twice and the median told."""
FLIPS_S = 60.0
"""Seconds that a method may spend on noisy trainings; at least one is done where one run fits."""
MEGABYTE = 2**20


@dataclass(frozen=True)
class Measured:
    """`values [q, n]` (empty where a row has none); seconds of each run from the loaded network to the whole matrix;
    peak growth of resident memory; `own` and `harm` of each noisy training `[n]`, high = suspicious; or why it is left out.
    """

    values: Array = field(default_factory=lambda: np.zeros((0, 0)))
    seconds: tuple[float, ...] = ()
    megabytes: float = float("nan")
    own: tuple[Array, ...] = ()
    harm: tuple[Array, ...] = ()
    note: str = ""
    left_out: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


class Peak:
    """Peak growth of resident memory while the block runs, in MB."""

    def __enter__(self) -> Peak:
        self._process, self._done = psutil.Process(), threading.Event()
        self._before = self._most = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, self._process.memory_info().rss)

    def __exit__(self, *exc: object) -> None:
        self._most = max(self._most, self._process.memory_info().rss)
        self._done.set()
        self._watcher.join()

    @property
    def megabytes(self) -> float:
        return (self._most - self._before) / MEGABYTE


def measure(
    name: str, candidates: Sequence[Candidate], *, timed: bool = True, limit: float = LIMIT_S
) -> list[Measured]:
    """Runs candidates one after the other in one fresh process; one that dies or takes too long is left out with that reason."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(name, tuple(candidates), timed, send), daemon=True)
    worker.start()
    send.close()
    found: list[Measured] = []
    try:
        while len(found) < len(candidates):
            if not receive.poll(limit):
                found.append(Measured(left_out=f"took more than {limit:g} s"))
                break
            found.append(receive.recv())
    except EOFError:
        found.append(Measured(left_out="its process died (memory?)"))
    finally:
        if len(found) < len(candidates) or found[-1].left_out:
            worker.kill()
        worker.join()
        receive.close()
    rest = len(candidates) - len(found)
    return found + [Measured(left_out="not reached in the same process")] * rest


def _work(name: str, candidates: tuple[Candidate, ...], timed: bool, send: Connection) -> None:
    torch.set_num_threads(1)
    explained = trained(problem(name))
    wrong = noisy(problem(name)) if timed else []
    space = psutil.Process().memory_info().vms + LIMIT_MB * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for candidate in candidates:
        send.send(_one(candidate, explained, wrong, timed))
    send.close()


def _one(candidate: Candidate, explained: Trained, wrong: list[Trained], timed: bool) -> Measured:
    try:
        if timed:
            _warm(candidate, explained)
        with Peak() as peak:
            answer, first = _clock(candidate, explained)
        values, note = as_numpy(answer.values), answer.note
        if not np.isfinite(values).all():
            return Measured(left_out=f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite")
        again = 2 if timed and first < QUICK_S else 0
        seconds = (first, *(_clock(candidate, explained)[1] for _ in range(again)))
        if candidate.queries is not None and candidate.queries < len(explained.problem.test):
            note = "; ".join(filter(None, (note, f"{candidate.queries} queries")))
        own, harm, why = _suspicions(candidate, wrong, statistics.median(seconds))
    except LeftOutError as reason:
        return Measured(left_out=str(reason))
    except Exception as error:  # noqa: BLE001 - a peer may raise anything; the table says what
        return Measured(left_out=f"{type(error).__name__}: {str(error)[:160]}")
    return Measured(values, seconds, peak.megabytes, own, harm, "; ".join(filter(None, (note, why))))


def _warm(candidate: Candidate, explained: Trained) -> None:
    """Imports the peer's library, which is not its time, by asking it about the first eight examples of each set."""

    def few(examples: TensorExamples) -> TensorExamples:
        return TensorExamples(examples.inputs[:64], examples.targets[:64], examples.prefix)

    made = replace(explained.problem, train=few(explained.train), test=few(explained.problem.test))
    try:
        candidate(replace(explained, problem=made, train=made.train, flipped=explained.flipped[:64]))
    except LeftOutError:
        raise
    except Exception:  # noqa: BLE001 - too few examples for some; the real run says what is wrong
        pass


def _clock(candidate: Candidate, explained: Trained) -> tuple[Answer, float]:
    began = time.perf_counter()
    answer = candidate(explained)
    return answer, time.perf_counter() - began


def _suspicions(
    candidate: Candidate, wrong: list[Trained], seconds: float
) -> tuple[tuple[Array, ...], tuple[Array, ...], str]:
    """Self-influence and harm in each noisy training, as many of them as fit the time, and why there are none."""
    own, harm = [], []
    if any(candidate.settings.get(key, 1) > 1 for key in ("members", "models")):
        return (), (), ""  # a noisy training has no other seeds
    for one in wrong[: int(FLIPS_S / max(seconds, 1e-3))]:
        try:
            answer = candidate(one)
            if answer.own is not None:
                own.append(as_numpy(answer.own()))
        except Exception as error:  # noqa: BLE001 - the scores themselves stand
            return (), (), f"flips: {type(error).__name__}: {str(error)[:100]}"
        if answer.values.numel():
            harm.append(-as_numpy(_share(answer, one) @ answer.values.float()))
    return tuple(own), tuple(harm), ""


def _share(answer: Answer, one: Trained) -> torch.Tensor:
    """Weights of the queries in the mean over them: of log p, whose gradient is 1 − p times that of the margin."""
    count = len(answer.values)
    if answer.asked != "margin":
        return torch.full((count,), 1 / count)
    inputs, targets = one.problem.test.inputs[:count], one.problem.test.targets[:count]
    chances = one.outputs(inputs).softmax(1).gather(1, targets.unsqueeze(1))[:, 0]
    return (1 - chances) / count
