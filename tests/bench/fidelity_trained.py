"""Which networks do all methods explain? The same checkpoints for everybody, trained once and kept on the disk.

What is explained is trained by the product's own loop, so that methods can go back through its record; scores nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from explorer.contracts import Objective, Queries, Recipe, Subject, Training
from explorer.objectives import for_task
from explorer.training import train_epochs
from tests.bench.fidelity_problems import Problem
from tests.bench.fidelity_truth import folder, train
from tests.problems import TensorExamples

CHECKPOINTS = 6
MEMBERS = 5
FLIPPED = 0.08
VERSION = 2


@dataclass(frozen=True)
class Trained:
    """One training of a problem: `history` has the weights after 0, 1, ... epochs, `[epochs + 1, ...]` each; the last ones
    are explained. `members` are the final weights of trainings from other seeds, the explained ones first. `train`
    has the labels trained on; `flipped [n]` says which of them are wrong on purpose."""

    problem: Problem
    train: TensorExamples
    flipped: Tensor
    history: Mapping[str, Tensor]
    members: tuple[Mapping[str, Tensor], ...]
    seed: int = 0

    def after(self, epoch: int) -> dict[str, Tensor]:
        """The weights after so many epochs."""
        return {name: values[epoch] for name, values in self.history.items()}

    @property
    def states(self) -> tuple[Mapping[str, Tensor], ...]:
        """The weights at `CHECKPOINTS` epochs, the last ones the explained."""
        return tuple(self.after(epoch) for epoch in checkpoint_epochs(self.problem.training.epochs))

    @property
    def rates(self) -> tuple[float, ...]:
        """The sum of the rates of all steps since the checkpoint before, for each."""
        return _rates(self.problem)

    def asked_about(self, queries: int | None) -> Trained:
        """The same training, asked about its first `queries` test examples only."""
        if queries is None:
            return self
        tests = self.problem.test
        few = TensorExamples(tests.inputs[:queries], tests.targets[:queries], tests.prefix)
        return replace(self, problem=replace(self.problem, test=few))

    def network(self, state: Mapping[str, Tensor] | None = None) -> nn.Sequential:
        """A fresh network with these weights, the explained ones by default."""
        made = self.problem.build(0)
        made.load_state_dict(dict(self.after(-1) if state is None else state))
        return made

    def subject(self, state: Mapping[str, Tensor] | None = None) -> Subject:
        """What the product's methods fit; with the record of its training where these are the explained weights."""
        weights = self.after(-1) if state is None else state
        name = hashlib.sha256(b"".join(weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()
        mine = all(torch.equal(weights[name], values[-1]) for name, values in self.history.items())
        record = Training(self.recipe(), self.problem.training.epochs, self.after) if mine else None
        decay = self.problem.training.decay
        return Subject(self.network(weights), self.train, _objective(self.problem), decay, name, record)

    def queries(self, target: str) -> Queries:
        """All test examples."""
        return Queries(self.problem.test, np.arange(len(self.problem.test), dtype=np.int64), target)  # type: ignore[arg-type]

    def recipe(self) -> Recipe:
        """The product's words for the problem's training."""
        return _recipe(self.problem, self.seed)

    def outputs(self, inputs: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs `[b, k]` in float32, without gradients."""
        with torch.no_grad():
            return self.network(state)(inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """What the linear head sees, `[b, p]`."""
        with torch.no_grad():
            return self.network()[:-1](inputs)


def checkpoint_epochs(epochs: int) -> list[int]:
    """`CHECKPOINTS` epochs spread evenly, the last one included."""
    return sorted({max(1, round(epochs * (at + 1) / CHECKPOINTS)) for at in range(CHECKPOINTS)})


def _rates(problem: Problem) -> tuple[float, ...]:
    """The sum of the rates of all steps since the checkpoint before, for each."""
    recipe = problem.training
    per_epoch = math.ceil(len(problem.train) / recipe.batch)
    steps = recipe.epochs * per_epoch
    rates = [recipe.rate * 0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    ends = [0, *(epoch * per_epoch for epoch in checkpoint_epochs(recipe.epochs))]
    return tuple(sum(rates[start:stop]) for start, stop in pairwise(ends))


def trained(problem: Problem, members: int = MEMBERS) -> Trained:
    """The clean training of a problem and its members."""
    history = _kept(problem, "clean", lambda: _history(problem, 0))
    seeds = list(range(1, members))
    others = _kept(problem, f"members {members}", lambda: _members(problem, seeds))
    nothing = torch.zeros(len(problem.train), dtype=torch.bool)
    finals = [{name: values[at] for name, values in others.items()} for at in range(len(seeds))]
    final = {name: values[-1] for name, values in history.items()}
    return Trained(problem, problem.train, nothing, history, (final, *finals))


def noisy(problem: Problem) -> list[Trained]:
    """`problem.flips` trainings, each with 8 % of the labels wrong in its own way."""
    made = []
    for seed in range(problem.flips):
        labels = _flipped_labels(problem, seed)
        examples = TensorExamples(problem.train.inputs, labels, "train")
        aim = replace(problem, train=examples)
        history = _kept(problem, f"noisy {seed}", partial(_history, aim, seed))
        final = {name: values[-1] for name, values in history.items()}
        made.append(Trained(aim, examples, labels != problem.train.targets, history, (final,), seed))
    return made


def _history(problem: Problem, seed: int) -> dict[str, Tensor]:
    """The weights before the first and after every epoch of the product's own training, stacked."""
    model = problem.build(seed)
    states = [{name: values.clone() for name, values in model.state_dict().items()}]
    for state, _ in train_epochs(model, _objective(problem), problem.train, problem.test, _recipe(problem, seed)):
        states.append(dict(state.parameters))
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _members(problem: Problem, seeds: list[int]) -> dict[str, Tensor]:
    whole = np.ones((len(seeds), len(problem.train)), dtype=bool)
    return train(problem, seeds, [[seed] for seed in seeds], whole, fixed=True) if seeds else {}


def _objective(problem: Problem) -> Objective:
    return for_task("regression" if problem.asked == "output" else "classification")


def _recipe(problem: Problem, seed: int) -> Recipe:
    t = problem.training
    return Recipe(t.epochs, t.rate, t.momentum, t.decay, t.batch, seed)


def _flipped_labels(problem: Problem, seed: int) -> Tensor:
    draw = np.random.default_rng([7, seed])
    labels = problem.train.targets.numpy().copy()
    rows = draw.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
    labels[rows] = (labels[rows] + draw.integers(1, problem.classes, len(rows))) % problem.classes
    return torch.from_numpy(labels)


def _kept(problem: Problem, what: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """From the disk, or made and kept there."""
    name = hashlib.sha256(f"{VERSION} {problem.key()} {what} {torch.__version__}".encode()).hexdigest()[:24]
    path = folder() / f"networks-{name}.pt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the product's replay of a training ends where it did only with as many threads
        try:
            found = make()
        finally:
            torch.set_num_threads(threads)
        part = path.with_suffix(f".{os.getpid()}.part")
        torch.save(found, part)
        part.replace(path)
    kept: dict[str, Tensor] = torch.load(path, weights_only=True)
    return kept
