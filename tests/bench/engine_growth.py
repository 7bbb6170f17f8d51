"""How do the engine's seconds and memory grow with queries, with examples and with parameters?

Each row is meant for a process of its own: resident memory is told as its peak over what data and network had taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from explorer.contracts import Queries, Subject
from explorer.influence.directional import FittedInverse
from explorer.influence.ekfac import EKFAC
from explorer.objectives import CrossEntropy
from tests.bench.engine_work import MEGABYTE, checkpoint, target_of
from tests.bench.fidelity_problems import MissingDataError, data_file, mlp
from tests.problems import TensorExamples

BLOCK = 256
"""Queries scored at once into memory that is used again, as a job does."""
PIXELS, CLASSES = 784, 10
STEPS = 60


@dataclass(frozen=True)
class Grown:
    """One row: what was measured, seconds of the processor to fit and to score, and peak resident memory (MB) over the
    start's. `rank` is None for exact scores and 0 for those of the default tolerance."""

    train: int
    parameters: int
    queries: int
    rank: int | None
    fit: float
    score: float
    megabytes: float


@dataclass
class Peak:
    """The largest resident memory of this process so far, over what it was at the start, in bytes."""

    most: int = 0
    start: int = field(default_factory=lambda: psutil.Process().memory_info().rss)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Looks every few milliseconds."""
    process, done, found = psutil.Process(), threading.Event(), Peak()

    def watch() -> None:
        while not done.wait(0.005):
            found.most = max(found.most, process.memory_info().rss - found.start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def digits_with(queries: int, rank: int | None) -> Grown:
    """The digits MLP asked about so many test digits, which repeat; scores of a block overwrite those of the last."""
    torch.set_num_threads(1)
    found = checkpoint("digits")
    rows = np.arange(queries, dtype=np.int64) % len(found.problem.test)
    return measured(found.subject(), Queries(found.problem.test, rows, target_of(found)), rank)


def network_with(train: int, widths: tuple[int, ...], queries: int, rank: int | None) -> Grown:
    """An MLP of these widths after a short training, on so many pictures of 784 pixels."""
    torch.set_num_threads(1)
    subject, asked = made(train, widths)
    return measured(subject, Queries(asked, np.arange(queries, dtype=np.int64) % len(asked)), rank)


def measured(subject: Subject, queries: Queries, rank: int | None) -> Grown:
    """Fit and score in blocks of queries, with the peak of memory meanwhile."""
    method = EKFAC(tolerance=0.0) if rank is None else EKFAC(rank=rank or None)
    method.fit(_few(subject))  # what a first call takes once, of code and of memory
    with peak_memory() as peak:
        began = time.process_time()
        fitted = method.fit(subject)
        halfway = time.process_time()
        buffer = torch.empty(min(BLOCK, len(queries.rows)), len(subject.train))
        for start in range(0, len(queries.rows), BLOCK):
            rows = queries.rows[start : start + BLOCK]
            fitted.score(Queries(queries.examples, rows, queries.target), out=buffer[: len(rows)])
        ended = time.process_time()
    assert isinstance(fitted, FittedInverse)
    size = fitted.layers.size
    seconds = halfway - began, ended - halfway
    return Grown(len(subject.train), size, len(queries.rows), rank, *seconds, peak.most / MEGABYTE)


def _few(subject: Subject) -> Subject:
    small = nn.Sequential(
        nn.Flatten(), mlp((int(np.prod(subject.train.batch(np.arange(1)).shape)), 8, CLASSES), nn.GELU)
    )
    few = TensorExamples(subject.train.batch(np.arange(32)), torch.from_numpy(subject.train.labels[:32]), "few")
    return Subject(small, few, subject.objective, 5e-4, "few")


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """60,000 pictures `[n, 784]` and labels: MNIST where it is at hand, else made up."""
    try:
        with np.load(data_file("images/mnist.npz"), allow_pickle=False) as file:
            x, y = torch.from_numpy(file["x_train"]), torch.from_numpy(file["y_train"]).long()
            return x.flatten(1).float() / 255, y
    except MissingDataError:
        draw = torch.Generator().manual_seed(0)
        kinds, y = torch.randn(CLASSES, PIXELS, generator=draw), torch.randint(CLASSES, (60_000,), generator=draw)
        return (kinds[y] + 2 * torch.randn(len(y), PIXELS, generator=draw)).sigmoid(), y


def made(train: int, widths: tuple[int, ...]) -> tuple[Subject, TensorExamples]:
    """The subject, and the last 2,000 pictures to ask about."""
    x, y = pictures()
    examples = TensorExamples(x[:train], y[:train], "train")
    torch.manual_seed(0)
    model = mlp((PIXELS, *widths, CLASSES), nn.GELU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        rows = torch.arange(step * 128, (step + 1) * 128) % train
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(examples.inputs[rows]), examples.targets[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Subject(model.eval(), examples, CrossEntropy(), 5e-4, "growth"), TensorExamples(x[-2000:], y[-2000:], "test")
