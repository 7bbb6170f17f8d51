"""Seeded problems as data: a trained model, its examples and what it was trained for.

Each is small enough for the dense oracles. Every head is trained to the optimum of the stated objective in float64
(so a refit without one example is comparable) and cast to float32, as the product sees models.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Objective, Subject, TablePreview, Task
from explorer.objectives import CrossEntropy, SquaredError


@dataclass(frozen=True)
class TensorExamples:
    """Examples held in memory: inputs float32 `[n, ...]`, targets int64 or float32 `[n]`."""

    inputs: Tensor
    targets: Tensor
    prefix: str = "row"

    @property
    def key(self) -> str:
        parts = (self.inputs.numpy().tobytes(), self.targets.numpy().tobytes(), self.prefix.encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @property
    def ids(self) -> NDArray[np.str_]:
        return np.array([f"{self.prefix}-{row}" for row in range(len(self))])

    @property
    def labels(self) -> NDArray[np.generic]:
        return self.targets.numpy()

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        return self.inputs[torch.as_tensor(np.asarray(rows))]

    def preview(self, row: int) -> TablePreview:
        values = self.inputs[row].flatten().numpy()
        return TablePreview(tuple(f"x{i}" for i in range(len(values))), values, np.zeros_like(values))


@dataclass(frozen=True)
class Problem:
    """A subject in its parts. `body` and `head` are parts of `model`: model(x) = head(body(x)) in evaluation mode."""

    name: str
    model: nn.Module
    body: nn.Module
    head: nn.Linear
    train: TensorExamples
    test: TensorExamples
    objective: Objective
    weight_decay: float
    whole: bool  # the head is the whole model, so refitting it is retraining

    @property
    def task(self) -> Task:
        return self.objective.task

    def subject(self, **changes: object) -> Subject:
        parts = {
            "model": self.model,
            "train": self.train,
            "objective": self.objective,
            "weight_decay": self.weight_decay,
            "key": f"subject-{self.name}",
        }
        return Subject(**(parts | changes))


class HeadFirst(nn.Module):
    """A network that names its head before its body: the last layer is the one that runs last."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.head = head
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class SharedConv(nn.Module):
    """Two passes of one convolution (shared weights), then the mean over quarters of the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.again = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for _ in range(2):
            h = torch.tanh(self.again(h))
        return nn.functional.avg_pool2d(h, 4).flatten(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny tensors: several threads only wait for each other, minutes instead of seconds on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def objective_of(head: nn.Linear, features: Tensor, targets: Tensor, weight_decay: float) -> Tensor:
    """(1/n) Σ l + (wd/2)‖θ‖² of a head, written here once more so that training shares no code with the product."""
    outputs = head(features)
    if outputs.shape[1] == 1:
        fit = 0.5 * (outputs[:, 0] - targets).square().mean()
    else:
        fit = nn.functional.cross_entropy(outputs, targets.long())
    return fit + 0.5 * weight_decay * sum(p.square().sum() for p in head.parameters())


def _fit_head(head: nn.Linear, features: Tensor, targets: Tensor, weight_decay: float) -> None:
    optimizer = torch.optim.LBFGS(
        head.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective_of(head, features, targets, weight_decay)
        value.backward()
        return value

    optimizer.step(closure)
    optimizer.zero_grad(set_to_none=True)
    gradient = torch.autograd.grad(objective_of(head, features, targets, weight_decay), list(head.parameters()))
    assert max(g.abs().max() for g in gradient) < 1e-7, "the problem's head is not trained to its optimum"


def _train(body: nn.Module, head: nn.Linear, x: Tensor, y: Tensor, weight_decay: float, steps: int) -> None:
    """Full-batch Adam on everything, then the head alone to its optimum on the features that came out."""
    body.double().eval()
    head.double()
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        objective_of(head, body(x), y, weight_decay).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        features = body(x)
    _fit_head(head, features, y, weight_decay)
    body.float()
    head.float()


def _blobs(n: int, d: int, classes: int, spread: float) -> tuple[Tensor, Tensor]:
    centers = torch.randn(classes, d, dtype=torch.float64)
    y = torch.arange(n) % classes
    return (centers[y] + spread * torch.randn(n, d, dtype=torch.float64)).float(), y


def _make(
    name: str,
    seed: int,
    data: Callable[[], tuple[Tensor, Tensor]],
    build: Callable[[], tuple[nn.Module, nn.Linear, nn.Module | None]],
    weight_decay: float,
    held_out: int,
    steps: int = 0,
) -> Problem:
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, y = data()
        body, head, model = build()
        cut = len(y) - held_out
        _train(body, head, x[:cut].double(), y[:cut].double(), weight_decay, steps)
    task = "regression" if head.out_features == 1 else "classification"
    return Problem(
        name=name,
        model=head if model is None else model,
        body=body,
        head=head,
        train=TensorExamples(x[:cut], y[:cut], "train"),
        test=TensorExamples(x[cut:], y[cut:], "test"),
        objective=SquaredError() if task == "regression" else CrossEntropy(),
        weight_decay=weight_decay,
        whole=model is None,
    )


def _ridge() -> Problem:
    def data() -> tuple[Tensor, Tensor]:
        x = torch.randn(60, 5)
        y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 0.7 + 0.5 * torch.randn(60)
        return x, y

    return _make("ridge", 0, data, lambda: (nn.Identity(), nn.Linear(5, 1), None), weight_decay=0.05, held_out=10)


def _binary() -> Problem:
    """Two classes, overlapping, and a head without a bias."""

    def build() -> tuple[nn.Module, nn.Linear, None]:
        return nn.Identity(), nn.Linear(4, 2, bias=False), None

    return _make("binary", 1, lambda: _blobs(252, 4, 2, 1.2), build, weight_decay=0.02, held_out=12)


def _softmax() -> Problem:
    def build() -> tuple[nn.Module, nn.Linear, None]:
        return nn.Identity(), nn.Linear(6, 3), None

    return _make("softmax", 2, lambda: _blobs(312, 6, 3, 1.5), build, weight_decay=0.02, held_out=12)


def _mlp() -> Problem:
    """Dropout in the body and mixed training flags: the product has to switch to evaluation and back."""

    def build() -> tuple[nn.Module, nn.Linear, nn.Module]:
        body = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 12), nn.Tanh())
        head = nn.Linear(12, 4)
        return body, head, nn.Sequential(body, head)

    made = _make("mlp", 3, lambda: _blobs(171, 8, 4, 1.0), build, weight_decay=5e-3, held_out=11, steps=40)
    made.model.train()
    made.body[1].eval()
    made.body[0].bias.requires_grad_(False)
    return made


def _conv() -> Problem:
    """Small pictures: the place of a bright cross is the class; the head is named before the body."""

    def data() -> tuple[Tensor, Tensor]:
        n, y = 131, torch.arange(131) % 4
        x = 0.6 * torch.randn(n, 1, 8, 8)
        row, column = 2 + 4 * (y // 2), 2 + 4 * (y % 2)
        for i in range(n):
            x[i, 0, row[i], column[i] - 1 : column[i] + 2] += 1
            x[i, 0, row[i] - 1 : row[i] + 2, column[i]] += 1
        return x, y

    def build() -> tuple[nn.Module, nn.Linear, nn.Module]:
        body, head = SharedConv(3), nn.Linear(12, 4)
        return body, head, HeadFirst(body, head)

    return _make("conv", 4, data, build, weight_decay=5e-3, held_out=11, steps=60)


def _mlp_regression() -> Problem:
    def data() -> tuple[Tensor, Tensor]:
        x = torch.randn(110, 6)
        return x, torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.2 * torch.randn(110)

    def build() -> tuple[nn.Module, nn.Linear, nn.Module]:
        body, head = nn.Sequential(nn.Linear(6, 20), nn.Tanh()), nn.Linear(20, 1)
        return body, head, nn.Sequential(*body, head)

    return _make("mlp-regression", 5, data, build, weight_decay=5e-3, held_out=10, steps=150)


_MAKERS: dict[str, Callable[[], Problem]] = {
    "ridge": _ridge,
    "binary": _binary,
    "softmax": _softmax,
    "mlp": _mlp,
    "conv": _conv,
    "mlp-regression": _mlp_regression,
}
NAMES = tuple(_MAKERS)


@cache
def _built(name: str) -> Problem:
    return _MAKERS[name]()


def problem(name: str) -> Problem:
    """A fresh copy, so that no test sees what another did to the model."""
    return copy.deepcopy(_built(name))
