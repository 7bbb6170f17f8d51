"""Small trainings as data, by torch's own optimizers in float64, and what is checked of anything that replays them.

Shares with `explorer/` only the description of an optimizer; batches and rates are written out again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from explorer.contracts import Objective, Queries, Recipe, Subject
from explorer.errors import Cancelled
from explorer.influence.trajectory import Adam, Optimizer, Sgd, Trajectory
from explorer.objectives import CrossEntropy, SquaredError
from tests import oracles, problems
from tests.fakes import ListExamples, blobs, line

RECIPE = Recipe(epochs=3, rate=0.1, momentum=0.9, weight_decay=0.02, batch_size=8, seed=4)
N, ASKED = 21, 4  # batches of 8, 8 and 5
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(0.9, 0.02),
    "plain-sgd": Sgd(0.0, 0.0),
    "adam": Adam(weight_decay=0.02, eps=1e-4),
    "adam-no-decay": Adam(0.8, 0.95, eps=1e-4),
    "adamw": Adam(weight_decay=0.1, eps=1e-4, decoupled=True),
}


class Attention(nn.Module):
    """Two heads of attention over a short sequence of symbols, a layer norm, and the mean of the places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = self.mix(h).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.norm(h + mixed).mean(1))


def symbols(n: int, seed: int, prefix: str) -> ListExamples:
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.integers(5, size=(n, 6)))
    return ListExamples(x.unbind(), np.asarray((x == 0).sum(1) % 3), prefix)


def dead_column(examples: ListExamples) -> ListExamples:
    """An input that is always zero: its weights never get a gradient."""
    return ListExamples([x * torch.tensor([1, 1, 1, 1, 1, 0.0]) for x in examples.inputs], examples.labels, "row")


@dataclass(frozen=True)
class Case:
    """A model before its training, and everything it is trained on."""

    model: nn.Module
    train: ListExamples
    test: ListExamples
    objective: Objective
    inputs: torch.dtype = torch.float64

    def stacked(self, examples: ListExamples) -> tuple[Tensor, Tensor]:
        return torch.stack(examples.inputs).to(self.inputs), torch.tensor(examples.labels)


def case(name: str) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "attention":
            made = Case(Attention(), symbols(N, 0, "row"), symbols(ASKED, 1, "t"), CrossEntropy(), torch.int64)
        elif name == "regression":
            model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
            made = Case(model, line(N), line(ASKED, seed=1, prefix="t"), SquaredError())
        elif name == "conv":
            model = nn.Sequential(problems.SharedConv(2), nn.Linear(8, 3))
            made = Case(model, blobs(N, (1, 8, 8)), blobs(ASKED, (1, 8, 8), seed=1, prefix="t"), CrossEntropy())
        else:
            model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))
            made = Case(model, dead_column(blobs(N)), blobs(ASKED, seed=1, prefix="t"), CrossEntropy())
    made.model.double()
    return made


def batches(recipe: Recipe = RECIPE, n: int = N) -> list[tuple[list[int], float]]:
    """Rows and rates of the recipe, written out once more."""
    found = []
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([recipe.seed, epoch + 1]).permutation(n).tolist()
        found += [order[start : start + recipe.batch_size] for start in range(0, n, recipe.batch_size)]
    return [(rows, recipe.rate * (1 + np.cos(np.pi * k / len(found))) / 2) for k, rows in enumerate(found)]


def mean_loss(losses: Tensor, weights: Tensor, removal: str) -> Tensor:
    return (losses * weights).sum() / (weights.sum() if removal == "leaves" else len(weights))


def really_trained(made: Case, weights: Tensor, optimizer: Optimizer, removal: str) -> nn.Module:
    """The training with weighed examples by torch's own optimizer."""
    model, (x, y) = copy.deepcopy(made.model), made.stacked(made.train)
    if isinstance(optimizer, Sgd):
        torchs = torch.optim.SGD(model.parameters(), 1, optimizer.momentum, weight_decay=optimizer.weight_decay)
    else:
        kind = torch.optim.AdamW if optimizer.decoupled else torch.optim.Adam
        betas = (optimizer.beta1, optimizer.beta2)
        torchs = kind(model.parameters(), 1, betas, optimizer.eps, optimizer.weight_decay)
    for rows, rate in batches():
        torchs.param_groups[0]["lr"] = rate
        torchs.zero_grad()
        mean_loss(oracles.losses(model(x[rows]), y[rows]), weights[rows], removal).backward()
        torchs.step()
    return model


def trained(made: Case, optimizer: Optimizer) -> tuple[Subject, Trajectory]:
    """The subject of a case after its training, by torch, and the log of that training."""
    model = really_trained(made, torch.ones(N, dtype=torch.float64), optimizer, "leaves")
    log = Trajectory.by_recipe(made.model.state_dict(), RECIPE, N, optimizer=optimizer)
    return Subject(model, made.train, made.objective, optimizer.weight_decay, "subject"), log


def asked(made: Case, target: str = "label", rows: list[int] | None = None) -> Queries:
    return Queries(made.test, np.array(range(ASKED) if rows is None else rows, dtype=np.int64), target)


def state_of(model: nn.Module) -> tuple[object, ...]:
    return (
        {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
        {key: module.training for key, module in model.named_modules()},
        {key: (p.requires_grad, p.grad is None) for key, p in model.named_parameters()},
        {key: len(module._forward_hooks) for key, module in model.named_modules()},
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
    )


class CancelAt:
    """Raises at its k-th call, and checks what it is told."""

    def __init__(self, k: int) -> None:
        self.k, self.calls = k, 0

    def __call__(self, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        assert note
        if self.calls == self.k:
            raise Cancelled
        self.calls += 1
