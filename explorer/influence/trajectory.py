"""How did these weights come about, step by step? A training as data: its steps, its optimizer, its first weights.

Knows the update rules of SGD and Adam forwards and backwards, as pure functions of flat vectors; it runs no model,
scores nothing and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Recipe, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.training import epoch_batches, rate_at, resolve_epochs

Removal = Literal["leaves", "zero"]
REMOVALS: tuple[Removal, ...] = ("leaves", "zero")
"""What removing an example does to its batch. `leaves`: it is not there, the step is the mean of those that stay (what
`training.train_epochs(rows=...)` does). `zero`: its loss counts 0 and the divisor stays the full batch."""

State = tuple[Tensor, ...]
"""An optimizer's state, the weights first; every tensor `[..., P]` but Adam's count `[..., 1]`."""


@dataclass(frozen=True)
class Sgd:
    """`torch.optim.SGD`: g + wd θ joins the velocity, v ← μ v + g (at first v = g), θ ← θ − η v."""

    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _within("momentum", self.momentum, 0.0, 1.0)
        _within("weight_decay", self.weight_decay, 0.0, float("inf"))

    def start(self, theta: Tensor) -> State:
        """Weights and a velocity of zero."""
        return theta, torch.zeros_like(theta)

    def step(self, state: State, gradient: Tensor, rate: float) -> State:
        """The state after one step; elementwise, so any leading dimensions may stand for several models."""
        theta, velocity = state
        velocity = (velocity * self.momentum).add_(gradient.add(theta, alpha=self.weight_decay))
        return theta.add(velocity, alpha=-rate), velocity

    def advance(self, state: State, gradient: Tensor, rate: float) -> State:
        """`step`, to the same bits, in the memory of the state and of the gradient, which are used up."""
        theta, velocity = state
        velocity.mul_(self.momentum).add_(gradient.add_(theta, alpha=self.weight_decay))
        return theta.add_(velocity, alpha=-rate), velocity

    def pull(self, before: State, gradient: Tensor, rate: float, adjoint: State) -> tuple[Tensor, State]:  # noqa: ARG002
        """The adjoint of the batch gradient, and of the state before the step but for its way through the gradient."""
        theta, velocity = adjoint
        direction = velocity.add(theta, alpha=-rate)
        return direction, (theta.add(direction, alpha=self.weight_decay), direction * self.momentum)


@dataclass(frozen=True)
class Adam:
    """`torch.optim.Adam`, or AdamW where `decoupled`: θ then shrinks by η wd before the step instead of g growing."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        _within("beta1", self.beta1, 0.0, 1.0)
        _within("beta2", self.beta2, 0.0, 1.0)
        _within("weight_decay", self.weight_decay, 0.0, float("inf"))
        if not 0 < self.eps < float("inf"):
            raise SettingsError(f"Expected eps > 0 and finite; found {self.eps!r}. Choose another eps.")

    def start(self, theta: Tensor) -> State:
        """Weights, both moments at zero, and the number of steps so far, `[..., 1]`."""
        return theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta[..., :1])

    def step(self, state: State, gradient: Tensor, rate: float) -> State:
        """The state after one step; elementwise, so any leading dimensions may stand for several models."""
        theta, mean, square, count = state
        g = gradient if self.decoupled else gradient.add(theta, alpha=self.weight_decay)
        mean, square, count = torch.lerp(mean, g, 1 - self.beta1), self._square(square, g), count + 1
        kept = theta * (1 - rate * self.weight_decay) if self.decoupled else theta
        size, root = self._corrections(count, rate)
        return kept - size * mean / (square.sqrt() / root + self.eps), mean, square, count

    def advance(self, state: State, gradient: Tensor, rate: float) -> State:
        """`step`; what was handed in may be used up."""
        return self.step(state, gradient, rate)

    def pull(self, before: State, gradient: Tensor, rate: float, adjoint: State) -> tuple[Tensor, State]:
        """As `Sgd.pull`. Where a squared moment is zero its root has no slope, and none is taken."""
        g = gradient if self.decoupled else gradient.add(before[0], alpha=self.weight_decay)
        mean, square = torch.lerp(before[1], g, 1 - self.beta1), self._square(before[2], g)
        size, root = self._corrections(before[3] + 1, rate)
        deviation = square.sqrt()
        below = deviation / root + self.eps
        slope = torch.where(deviation > 0, size * mean / (below.square() * 2 * root * deviation), 0.0)
        theta, first, second, count = adjoint
        first, second = first - theta * (size / below), second + theta * slope
        direction = (1 - self.beta1) * first + (2 * (1 - self.beta2) * g) * second
        if self.decoupled:
            theta = theta * (1 - rate * self.weight_decay)
        else:
            theta = theta.add(direction, alpha=self.weight_decay)
        return direction, (theta, first * self.beta1, second * self.beta2, count)

    def _square(self, square: Tensor, g: Tensor) -> Tensor:
        return (square * self.beta2).addcmul_(g, g, value=1 - self.beta2)

    def _corrections(self, count: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """η/(1 − β₁ᵏ) and √(1 − β₂ᵏ), `[..., 1]`: powers in float64, whatever the weights are."""
        k = count.double()
        size, root = rate / (1 - self.beta1**k), (1 - self.beta2**k).sqrt()
        return size.to(count.dtype), root.to(count.dtype)


Optimizer = Sgd | Adam


def optimizer_of(recipe: Recipe) -> Sgd:
    """The optimizer that the project's own training loop uses for a recipe."""
    return Sgd(recipe.momentum, recipe.weight_decay)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a training: the rows of its batch, int64 `[b]`, and its rate."""

    rows: NDArray[np.int64]
    rate: float


def steps_of(recipe: Recipe, n: int, rows: NDArray[np.int64] | None = None) -> tuple[Step, ...]:
    """The steps that `training.train_epochs` takes over `n` examples, of which only `rows` are trained on."""
    epochs, kept = resolve_epochs(recipe, n), np.ones(n, dtype=bool)
    if rows is not None:
        kept[:] = False
        kept[rows] = True
    batches = [batch for epoch in range(1, epochs + 1) for batch in epoch_batches(n, recipe, epoch)]
    rated = ((batch[kept[batch]], rate_at(recipe, number, len(batches))) for number, batch in enumerate(batches))
    return tuple(Step(batch, rate) for batch, rate in rated if len(batch))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A training that can be replayed: the state dict it began with, its steps in order, and its optimizer.

    Raises `DataError` on creation for a training without steps, an empty batch or a rate that is not finite and >= 0.
    """

    initial: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    optimizer: Optimizer

    def __post_init__(self) -> None:
        bad = [k for k, step in enumerate(self.steps) if not len(step.rows) or not 0 <= step.rate < float("inf")]
        if not self.steps or bad:
            found = (
                f"step {bad[0]} with {len(self.steps[bad[0]].rows)} rows at a rate of {self.steps[bad[0]].rate}"
                if bad
                else "no steps"
            )
            raise DataError(
                "Expected a training of at least one step, each with a batch and a finite rate >= 0; found "
                f"{found}. Log every step that changed the weights, and no other."
            )

    @classmethod
    def by_recipe(
        cls,
        initial: Mapping[str, Tensor],
        recipe: Recipe,
        n: int,
        *,
        rows: NDArray[np.int64] | None = None,
        optimizer: Optimizer | None = None,
    ) -> Trajectory:
        """What `train_epochs` did with these weights, recipe, `n` examples and `rows`.

        With `optimizer=None` it is the recipe's own SGD; otherwise the same batches and rates under another update.
        """
        copied = {name: tensor.detach().clone() for name, tensor in initial.items()}
        return cls(copied, steps_of(recipe, n, rows), optimizer or optimizer_of(recipe))

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the optimizer's settings as one flat dict, ready for a safetensors file."""
        flat = {f"initial/{name}": tensor.contiguous() for name, tensor in self.initial.items()}
        return flat | {
            "steps/rows": torch.from_numpy(np.concatenate([step.rows for step in self.steps]).astype(np.int64)),
            "steps/sizes": torch.tensor([len(step.rows) for step in self.steps]),
            "steps/rates": torch.tensor([step.rate for step in self.steps], dtype=torch.float64),
        }

    def settings(self) -> dict[str, Any]:
        """The optimizer as JSON-ready settings; `restored` turns both back into an equal trajectory."""
        return {"optimizer": "adam" if isinstance(self.optimizer, Adam) else "sgd"} | asdict(self.optimizer)

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Trajectory:
        """The trajectory whose `tensors()` and `settings()` these are; other settings do not count."""
        known: dict[str, type[Optimizer]] = {"sgd": Sgd, "adam": Adam}
        optimizer = known[settings["optimizer"]]
        chosen = {field.name: settings[field.name] for field in fields(optimizer)}
        rows = torch.split(tensors["steps/rows"], tensors["steps/sizes"].tolist())
        steps = tuple(Step(r.numpy(), float(rate)) for r, rate in zip(rows, tensors["steps/rates"], strict=True))
        initial = {name.removeprefix("initial/"): t for name, t in tensors.items() if name.startswith("initial/")}
        return cls(initial, steps, optimizer(**chosen))


def trajectory_of(subject: Subject) -> Trajectory:
    """The training that `subject.training` tells of.

    Raises:
        ModelError: the subject's weights come from elsewhere, or its training is not finished.
    """
    told = subject.training
    if told is None:
        raise ModelError(
            "Expected a model with a record of its training (recipe, initial weights), to go back through it; found "
            "weights from elsewhere. Train with the explorer, or choose a method that looks at the final weights alone."
        )
    epochs = resolve_epochs(told.recipe, len(subject.train))
    if told.epochs != epochs:
        raise ModelError(
            f"Expected a training of the {epochs} epochs of its recipe; found one that ended after {told.epochs}. "
            "Let it finish, or train with a recipe of that length."
        )
    return Trajectory.by_recipe(told.weights(0), told.recipe, len(subject.train))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (isfinite(value) and low <= value < high):
        raise SettingsError(f"Expected {name} in [{low:g}, {high:g}); found {value!r}. Choose another {name}.")
