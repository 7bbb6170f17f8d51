"""On what is the engine's speed measured, and what is run? Problems, methods, and the least the work can cost.

Prints nothing and repeats nothing; shares the networks and checkpoints of the fidelity benchmark.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Subject, Target
from explorer.influence.directional import FittedInverse
from explorer.influence.ekfac import EKFAC
from explorer.influence.layers import Layers
from tests.bench.fidelity_peers import needs
from tests.bench.fidelity_problems import Problem, Training, convolutional, problem
from tests.bench.fidelity_trained import Trained, trained
from tests.problems import TensorExamples

BATCH = 1024
MEGABYTE = 2**20


@dataclass
class Clock:
    """Seconds by what the work said it was doing: a `progress` that charges the time between two calls to the first."""

    seconds: dict[str, float] = field(default_factory=dict)
    _note: str = "start"
    _since: float = field(default_factory=time.perf_counter)

    def __call__(self, done: int, total: int, note: str) -> None:
        self.stop()
        self._note = note

    def stop(self) -> None:
        """Charge the time since the last call."""
        now = time.perf_counter()
        self.seconds[self._note] = self.seconds.get(self._note, 0.0) + now - self._since
        self._since = now

    def restart(self, note: str) -> None:
        """Charge from now on, to `note`."""
        self._since, self._note = time.perf_counter(), note


@dataclass(frozen=True)
class Result:
    """Scores `[q, n]`, the seconds they took, and the seconds of each stage."""

    values: Tensor
    seconds: float
    stages: dict[str, float]


def pictures(count: int = 1200) -> Problem:
    """Made-up pictures of 28 x 28 in ten kinds for the convolutional network, where the real ones are not at hand."""
    draw = torch.Generator().manual_seed(0)
    kinds = torch.nn.functional.interpolate(torch.randn(10, 1, 7, 7, generator=draw), scale_factor=4, mode="bilinear")
    y = torch.randint(10, (count,), generator=draw)
    x = (kinds[y] + 0.7 * torch.randn(count, 1, 28, 28, generator=draw)).sigmoid()
    held = count // 6
    train, test = TensorExamples(x[held:], y[held:], "train"), TensorExamples(x[:held], y[:held], "test")
    title = "Made-up pictures, convolutions 8-16 and 784-32-10 gelu"
    return Problem("pictures", title, train, test, convolutional, Training(20, 0.05), ())


def checkpoint(name: str) -> Trained:
    """The training of a problem of the fidelity benchmark (or `pictures`), from its folder or made now.

    Raises:
        MissingDataError: its data is not at hand.
    """
    return trained(pictures() if name == "pictures" else problem(name), members=1)


def target_of(found: Trained) -> Target:
    """What is asked: log p of the label, or the output of a regression."""
    return "prediction" if found.problem.asked == "output" else "label"


def in_double(subject: Subject) -> Subject:
    """The same subject in float64."""
    return replace(subject, model=subject.model.double())


def run_ours(found: Trained, method: EKFAC, *, double: bool = False) -> Result:
    """Fit and score everything, from nothing; the stages are told apart by a second scoring, which is not counted."""
    subject = in_double(found.subject()) if double else found.subject()
    queries = found.queries(target_of(found))
    began = time.perf_counter()
    clock = Clock()
    fitted = method.fit(subject, clock)
    clock.stop()
    values = fitted.score(queries).values
    seconds = time.perf_counter() - began
    if double:
        return Result(values, seconds, {})
    stages = {told: clock.seconds.get(note, 0.0) for note, told in STAGES.items()}
    fitted_in = sum(clock.seconds.values())
    again = Clock()
    again.restart("queries")
    fitted.score(queries, again)
    again.stop()
    products = cast(float, fitted.stats["seconds_each"].get("products", 0.0))
    stages["eigenvalues"] -= products
    stages["choose products"] = products
    stages["query gradients"] = again.seconds["queries"]
    stages["pairs"] = again.seconds["scores"]
    stages["training gradients"] = max(0.0, seconds - fitted_in - sum(again.seconds.values()))
    return Result(values, seconds, stages)


STAGES = {
    "start": "find layers",
    "answers": "choose columns",
    "factors": "factors",
    "eigenvectors": "eigenvectors",
    "eigenvalues": "eigenvalues",
}


class Kronfluence:
    """Its process, open from `with` on; a call runs it once on `found`, in batches of `batch`.

    Raises:
        LeftOutError: it is not installed.
    """

    def __init__(self, found: Trained, batch: int = 512) -> None:
        needs("kronfluence", "kronfluence")
        network = io.BytesIO()
        torch.save(found.network(), network)
        tests = found.problem.test
        self._work = {
            "network": network.getvalue(),
            "train": (found.train.inputs, found.train.targets),
            "test": (tests.inputs, tests.targets),
            "batch": batch,
        }

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "work.pt")
        torch.save(self._work, path)
        command = [sys.executable, str(Path(__file__).with_name("engine_peer.py")), str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
        self._scores = path.with_suffix(".scores")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def __call__(self, how: str = "") -> Result:
        """`how` may be "frozen": then its calls of the garbage collector cost nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()
        seconds, stages = json.loads(self._process.stdout.readline())
        rest = seconds - sum(stages.values())
        return Result(torch.load(self._scores), seconds, {**stages, "files, pauses, start": rest})


@dataclass(frozen=True)
class Floor:
    """What cannot be done without: `passes` over the training set, and the bare products of `score`."""

    found: Trained
    gradients: Tensor
    directions: Tensor
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, found: Trained, layers: Layers) -> Floor:
        """Random numbers in the shapes of the products, built beforehand."""
        n, q = len(found.train), len(found.problem.test)
        draw = torch.Generator().manual_seed(0)
        made = partial_randn(draw)
        parts = [
            (made(q, each.width_out), made(n, each.width_out), made(q, each.width_in), made(n, each.width_in))
            for each in layers.layers
            if each.positions == 1
        ]
        return cls(found, made(n, layers.size), made(q, layers.size), parts)

    def passes(self) -> float:
        """Seconds of one forward and backward pass over the training set, the loss summed over a batch."""
        model, train = self.found.network(), self.found.train
        began = time.perf_counter()
        for rows in np.array_split(np.arange(len(train)), max(1, -(-len(train) // BATCH))):
            x, y = train.batch(rows), train.targets[torch.from_numpy(rows)]
            torch.autograd.grad(self.found.problem.loss(model(x), y).sum(), list(model.parameters()))
        return time.perf_counter() - began

    def products(self) -> float:
        """Seconds of one float32 product [q, parameters] x [parameters, n]."""
        out = torch.zeros(len(self.directions), len(self.gradients))
        began = time.perf_counter()
        torch.mm(self.directions, self.gradients.T, out=out)
        return time.perf_counter() - began


def partial_randn(draw: torch.Generator) -> Callable[..., Tensor]:
    """Normal numbers of a shape."""

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return made


def layers_of(found: Trained) -> Layers:
    """The layers that EK-FAC handles."""
    fitted = EKFAC().fit(found.subject())
    assert isinstance(fitted, FittedInverse)
    return fitted.layers


def spearman(found: Tensor, exact: Tensor) -> float:
    """Rank correlation over all scores at once."""
    return _correlation(_ranks(found.flatten()), _ranks(exact.flatten()))


def spearman_of_rows(found: Tensor, exact: Tensor) -> float:
    """Mean rank correlation of the queries."""
    return float(np.mean([_correlation(_ranks(a), _ranks(b)) for a, b in zip(found, exact, strict=True)]))


def _ranks(values: Tensor) -> Tensor:
    ranks = torch.empty(len(values), dtype=torch.float64)
    ranks[values.argsort(stable=True)] = torch.arange(len(values), dtype=torch.float64)
    return ranks - ranks.mean()


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))
