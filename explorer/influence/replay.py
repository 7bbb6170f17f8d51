"""What did the weights look like at every step of a training? It is run again, forwards, and backwards in bounded memory.

The model is only ever called as a function of a flat vector of its trainable parameters, in the model's own order;
it is never changed. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from explorer.contracts import Examples, Objective, Progress, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.influence.trajectory import State, Step, Trajectory
from explorer.loading import ROUNDING, as_model_input

MEGABYTE = 1e6
SAME_WEIGHTS = 1e-3
"""How far a replayed training may end from the subject's weights, relative to their norm. On the machine that trained
them it ends there to the bit; other sums of float32 grow along the way, and beyond this they are another training."""
SAME_MODES = 1e-5
"""How far training and evaluation mode may differ, relative to the largest output: float32 sums in another order."""
EXAMPLES = 256
"""Examples whose gradients are taken at once."""
CHECKED = 8
"""Examples on which the two modes are compared."""


class Network:
    """A model as a function of one flat vector of its trainable parameters; the model itself never changes.

    Frozen parameters and buffers come from `initial`, the state dict the training began with. Raises `ModelError`
    where that does not fit the model, or where the model has nothing to train.
    """

    def __init__(self, model: nn.Module, initial: Mapping[str, Tensor]) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rest = [(n, p) for n, p in model.named_parameters() if not p.requires_grad] + list(model.named_buffers())
        needed = list(trained.items()) + [(name, tensor) for name, tensor in rest if name in model.state_dict()]
        wrong = [n for n, tensor in needed if n not in initial or initial[n].shape != tensor.shape]
        if wrong or not trained:
            found = f"none for {wrong[0]!r} in its shape" if wrong else "no parameter that is trained"
            raise ModelError(
                f"Expected initial weights for every tensor of the model; found {found}. Give the state dict that the "
                "training began with, and set requires_grad on what is trained."
            )
        self.model = model
        self.names = list(trained)
        self.shapes = [p.shape for p in trained.values()]
        self.sizes = [p.numel() for p in trained.values()]
        self.rest = {name: initial.get(name, tensor).detach().to(tensor.device) for name, tensor in rest}

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The trainable parameters in a state dict as one vector `[P]`, of the model's type and on its device."""
        likes = dict(self.model.named_parameters())
        return torch.cat([tensors[n].detach().to(likes[n]).reshape(-1) for n in self.names])

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of a vector `[P]` as parameters by name."""
        return {n: t.view(s) for n, t, s in zip(self.names, torch.split(theta, self.sizes), self.shapes, strict=True)}

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """The model's outputs `[b, k]` at weights `[P]`, in whatever mode its modules are."""
        outputs: Tensor = functional_call(self.model, self.named(theta) | self.rest, (inputs,))
        return outputs

    @contextmanager
    def mode(self, *, training: bool) -> Iterator[None]:
        """Modules in training or evaluation mode and plain attention (fused, it has no second derivative), put back."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train(training)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def check_replayable(self, theta: Tensor, inputs: Tensor) -> None:
        """Raises `ModelError` unless training mode computes what evaluation mode does (no dropout, no batch norm).

        Nor may an output depend on the other examples of its batch. What is not finite is let through: `Replay` names it.
        """
        own = {name: tensor.clone() for name, tensor in self.rest.items()}
        seen = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for training in (True, False):
                with self.mode(training=training):
                    seen.append(functional_call(self.model, self.named(theta) | own, (inputs,)))
            with self.mode(training=False):
                half = functional_call(self.model, self.named(theta) | own, (inputs[: (len(inputs) + 1) // 2],))
        finite = seen[0].isfinite() & seen[1].isfinite()
        largest = float(seen[1][finite].abs().max()) if bool(finite.any()) else 0.0
        apart = (seen[1][: len(half)] - half)[finite[: len(half)]].abs()
        if bool((apart > ROUNDING * largest).any()):
            raise ModelError(
                "Expected the output of an example not to depend on the rest of its batch, nor on chance; found that it "
                "does. Use stored statistics in batch norm (track_running_stats=True), and take out what is random."
            )
        gap = float((seen[0] - seen[1])[finite].abs().max()) if bool(finite.any()) else 0.0
        if gap > SAME_MODES * largest:
            raise ModelError(
                "Expected a model whose training mode computes what its evaluation mode does, so that its training can "
                f"be replayed; found outputs that differ by {gap:.2g} (dropout, or batch norm with the statistics of "
                "the batch). Train without them, or choose a method that looks at the final weights alone."
            )


class Replay:
    """A trajectory run again on its examples, forwards, and backwards within a limit of memory (in bytes).

    States are kept whole where they fit; otherwise every k-th is kept and the rest computed again, a segment at a
    time: memory ~ 2√T states, one more forward pass per backward one. Raises `SettingsError` where not even
    that fits.
    """

    def __init__(
        self, network: Network, train: Examples, objective: Objective, trajectory: Trajectory, memory: float
    ) -> None:
        self.network, self.train, self.objective, self.trajectory = network, train, objective, trajectory
        self.targets = torch.tensor(train.labels)
        self.start = trajectory.optimizer.start(network.flat(trajectory.initial))
        self.segment = segment_length(len(trajectory.steps), sum(t.nbytes for t in self.start), memory)
        self._marks: list[State] = []
        highest = max(int(step.rows.max()) for step in trajectory.steps)
        if highest >= len(train) or min(int(step.rows.min()) for step in trajectory.steps) < 0:
            raise DataError(
                f"Expected steps over {len(train)} training examples; found row {highest}. Give the training set that "
                "these steps were logged on."
            )
        network.check_replayable(self.start[0], self.inputs(trajectory.steps[0].rows[:CHECKED]))

    def inputs(self, rows: NDArray[np.int64]) -> Tensor:
        """Model inputs for `rows`."""
        return as_model_input(self.network.model, self.train.batch(rows))

    def losses(self, theta: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Training losses `[b]` of `rows` at weights `[P]`, differentiable in them."""
        outputs = self.network.outputs(theta, self.inputs(rows))
        return self.objective.loss(outputs, self.targets[torch.from_numpy(rows)].to(outputs.device))

    def gradient(self, theta: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """The gradient `[P]` of the mean loss of `rows`."""
        point = theta.detach().requires_grad_(True)
        return torch.autograd.grad(self.losses(point, rows).mean(), point)[0]

    def check_ends_at(self, model: nn.Module, progress: Progress = silent) -> float:
        """Distance of the replayed final weights from those of `model`, relative to their norm; `ModelError` if far."""
        own = self.network.flat(model.state_dict())
        final = self.final(progress)
        if not bool(final.isfinite().all()):
            self._blame()
        gap = float((final - own).norm() / own.norm())
        if not gap <= SAME_WEIGHTS:
            raise ModelError(
                f"Expected the replayed training to end at the subject's weights; found it {gap:.2g} of their norm away, "
                f"over {SAME_WEIGHTS:g}. Give the recipe, initial weights and examples that this model was trained with."
            )
        return gap

    def _blame(self) -> None:
        """Raises `ModelError` with the step at which the replayed weights cease to be finite, and the example behind it."""
        before = self.start
        with self.network.mode(training=True):
            states = self.forwards(self.start, 0, len(self.trajectory.steps))
            for number, (step, after) in enumerate(zip(self.trajectory.steps, states, strict=True)):
                if bool(after[0].isfinite().all()):
                    before = after
                    continue
                alone = ((row, self.gradient(before[0], step.rows[i : i + 1])) for i, row in enumerate(step.rows))
                bad = [str(self.train.ids[row]) for row, gradient in alone if not bool(gradient.isfinite().all())]
                found = (
                    f"NaN or infinity in that of {bad[0]!r}" if bad else f"steps that are too large at {step.rate:g}"
                )
                raise ModelError(
                    f"Expected finite gradients in every step of the training; found {found}, step {number + 1} of "
                    f"{len(self.trajectory.steps)}. Mend or drop that example, or train at a smaller rate."
                )

    def forwards(self, state: State, first: int, last: int, progress: Progress = silent) -> Iterator[State]:
        """The states after steps `first` .. `last - 1`, from the state before them; within `network.mode(training=True)`."""
        total = len(self.trajectory.steps)
        for number in range(first, last):
            progress(number, total, "replaying the training")
            step = self.trajectory.steps[number]
            state = self.trajectory.optimizer.step(state, self.gradient(state[0], step.rows), step.rate)
            yield state

    def final(self, progress: Progress = silent) -> Tensor:
        """The weights `[P]` that the training ends with; the first call replays it and keeps what memory allows."""
        total = len(self.trajectory.steps)
        if not self._marks:
            marks = [self.start]
            with self.network.mode(training=True):
                for number, state in enumerate(self.forwards(self.start, 0, total, progress), start=1):
                    if number % self.segment == 0 or number == total:
                        marks.append(state)
            self._marks = marks
        return self._marks[-1][0]

    def backwards(self, progress: Progress = silent) -> Iterator[tuple[Step, State]]:
        """Every step with the state before it, the last step first."""
        self.final(progress)
        steps = self.trajectory.steps
        total = len(steps)
        for mark in range((total - 1) // self.segment, -1, -1):
            first, last = mark * self.segment, min((mark + 1) * self.segment, total)
            with self.network.mode(training=True):
                states = [self._marks[mark], *self.forwards(self._marks[mark], first, last - 1)]
            for number in range(last - 1, first - 1, -1):
                progress(total - 1 - number, total, "going back through the training")
                yield steps[number], states[number - first]
        progress(total, total, "going back through the training")


def segment_length(steps: int, state: int, memory: float) -> int:
    """Steps per segment when one state takes `state` bytes: 1 (all are kept) where that fits into `memory`.

    Raises:
        SettingsError: not even checkpoints √T apart fit.
    """
    if (steps + 1) * state <= memory:
        return 1
    length = max(isqrt(steps - 1) + 1, 2)
    needed = (-(-steps // length) + 1 + length) * state
    if needed > memory:
        raise SettingsError(
            f"Expected memory for {-(-steps // length) + 1 + length} states of {state / 1e6:.1f} MB; found a limit of "
            f"{memory / 1e6:.1f} MB. Allow {needed / 1e6:.0f} MB, or train fewer parameters."
        )
    return length


def check_finite(values: Tensor, what: str) -> None:
    """Raises `ModelError` where going back through the training has overflowed."""
    if not bool(values.isfinite().all()):
        raise ModelError(
            f"Expected finite {what}; found {int((~values.isfinite()).sum())} of {values.numel()} that grew without bound "
            "going back through the training. Train at a smaller rate, or choose a method that looks at the final weights."
        )


def per_example_gradients(network: Network, theta: Tensor, inputs: Tensor, pulls: Tensor) -> Tensor:
    """J_iᵀ r_i of every example, `[b, P]`, for pulls r `[b, k]` on the outputs, each example run alone under `vmap`."""

    def one(weights: Tensor, x: Tensor, pull: Tensor) -> Tensor:
        return (network.outputs(weights, x.unsqueeze(0))[0] * pull).sum()

    gradients: Tensor = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0), chunk_size=EXAMPLES)(
        theta, inputs, pulls
    )
    return gradients


def gradients_per_model(
    network: Network,
    objective: Objective,
    thetas: Sequence[Tensor],
    shares: Tensor,
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of Σ_b shares[m, b] · loss_b of m models, all on the same batch.

    `thetas`, like the answer, has a tensor `[m, size]` for each parameter of the network. The models run under one
    `vmap`; they do not see each other, so one backward pass of the sum is all their gradients.
    """
    points = [theta.detach().requires_grad_(True) for theta in thetas]
    named = {n: p.view(-1, *s) for n, p, s in zip(network.names, points, network.shapes, strict=True)}

    def outputs(own: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(network.model, own | network.rest, (inputs,))
        return found

    with torch.enable_grad():
        rows = torch.func.vmap(outputs)(named).flatten(0, 1)
        every = targets.repeat(len(shares), *[1] * (targets.dim() - 1))  # sequences have a target for each position
        losses = objective.loss(rows, every).view_as(shares)
        return torch.autograd.grad((losses * shares).sum(), points)
