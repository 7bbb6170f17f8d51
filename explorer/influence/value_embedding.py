"""What is each training example worth to any later question: one vector an example, found by one pass back through training?

Data value embedding: the metagradient with every batch's Hessian replaced by the products of its own gradients, so
that it can be done before a query is known. Takes SGD only, and projects the gradients of all but small models.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Objective, Progress, Queries, Scores, Subject, silent
from explorer.errors import DataError, SettingsError
from explorer.influence import gradients
from explorer.influence.backward import check_finite as check_rows
from explorer.influence.blocks import Need, in_blocks, says_what_fits
from explorer.influence.replay import MEGABYTE, Network, Replay, check_finite, per_example_gradients
from explorer.influence.trajectory import Sgd, Trajectory, trajectory_of
from explorer.loading import as_model_input
from explorer.objectives import measure_unit

Parameters = Literal["all", "last-layer"]
PARAMETERS: tuple[Parameters, ...] = ("all", "last-layer")
Curvature = Literal["gauss-newton", "gradients"]
CURVATURES: tuple[Curvature, ...] = ("gauss-newton", "gradients")
MAX_DIMENSION = 8192
"""Longest embedding: the pass back keeps two float32 matrices of its square (0.5 GB) and multiplies them at every step."""
ELEMENTS = 2**24
"""Numbers in the largest block of per-example gradients (64 MB in float32)."""
NEED = Need("one example's gradient", remedy="Set parameters to last-layer (--set parameters=last-layer).")
ROWS = 1024
"""Queries, or training examples, per block of products."""


@dataclass(frozen=True)
class DataValueEmbedding:
    """s(q, i) = E_i · g_q with g_q = −∇m_q(θ_T): what leaving i out of the steps it was in does to the query.

    Trajectory-specific leave-one-out (Wang et al. 2024, data value embedding): backward over the training log,
    E_i = η (g_i − M g_i)/B, M += Σ c_i E_i g_iᵀ, summed over the steps that i was in, B examples in a batch (the divisor
    is fixed). Positive = helpful; the unit is that of the measure. Departures from the paper: weight decay and momentum
    are followed exactly (a second matrix carries the velocity), and `curvature` "gauss-newton" gives each example its
    c_i, so that c_i g_i g_iᵀ is the Gauss-Newton matrix along g_i: exact for one output or two classes. With c_i = 1
    ("gradients", the paper) examples that are badly wrong count for far too much curvature, and the product over steps
    explodes with momentum (digits MLP, dimension 512: LDS at 1 % removal .09 against .59).

    `parameters`: "all" of them, or the cheap form, the "last-layer" alone (one forward pass a step, no backward pass).
    `dimension` bounds the length of an embedding: longer gradients are sketched, each coordinate with a random sign (from
    `seed`) into one of `dimension` sums, which keeps inner products on average, with an error of about ‖x‖‖y‖/√dimension
    (LDS there for 256, 512, 1024, 2048: .53, .59, .63, .68).
    `memory` in megabytes bounds the kept states of the training.
    """

    dimension: int = 1024
    parameters: Parameters = "all"
    curvature: Curvature = "gauss-newton"
    seed: int = 0
    memory: float = 1024.0
    name: ClassVar[str] = "data-value-embedding"

    def __post_init__(self) -> None:
        checks = (
            (1 <= self.dimension <= MAX_DIMENSION, "dimension", f"in 1..{MAX_DIMENSION}"),
            (self.parameters in PARAMETERS, "parameters", f"to be one of {', '.join(PARAMETERS)}"),
            (self.curvature in CURVATURES, "curvature", f"to be one of {', '.join(CURVATURES)}"),
            (0 <= self.seed < 2**32, "seed", "in 0..2^32 - 1"),
            (0 < self.memory < float("inf"), "memory", "> 0 and finite, in megabytes"),
        )
        for ok, name, rule in checks:
            if not ok:
                raise SettingsError(f"Expected {name} {rule}; found {getattr(self, name)!r}. Choose another {name}.")

    def fit(self, subject: Subject, progress: Progress = silent) -> "FittedDataValueEmbedding":
        """`along` the training that the subject tells of; raises `ModelError` where it tells of none."""
        return self.along(subject, trajectory_of(subject), progress)

    @says_what_fits
    def along(
        self, subject: Subject, trajectory: Trajectory, progress: Progress = silent
    ) -> "FittedDataValueEmbedding":
        """One replay of the training and one pass back. Per step: the batch's gradients, and 2·B·dimension² products.

        Raises:
            SettingsError: the training was not by SGD, or `memory` is too small for its states.
            ModelError: as `Metagradient.along`; for "last-layer", the model does not end in an `nn.Linear`.
        """
        began = time.perf_counter()
        if not isinstance(trajectory.optimizer, Sgd):
            raise SettingsError(
                f"Expected a training by SGD; found {trajectory.optimizer}. Use the method metagradient, which follows "
                "Adam too."
            )
        network = Network(subject.model, trajectory.initial)
        replay = Replay(network, subject.train, subject.objective, trajectory, self.memory * MEGABYTE)
        gap = replay.check_ends_at(subject.model, progress)
        made = Gradients(subject, replay.network, asdict(self))
        embeddings = embed(replay, made, trajectory.optimizer, self.curvature, progress)
        stats = asdict(self) | {
            "length": made.sketch.length,
            "gradient": made.width,
            "steps": len(trajectory.steps),
            "replay_error": gap,
            "seconds": time.perf_counter() - began,
        }
        return FittedDataValueEmbedding(subject, embeddings, made, stats)

    def restore(
        self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> "FittedDataValueEmbedding":
        """The fitted method from `tensors()` and `stats`; the training log is not needed any more."""
        network = Network(subject.model, subject.model.state_dict())
        return FittedDataValueEmbedding(subject, tensors["embeddings"], Gradients(subject, network, stats), dict(stats))


class Sketch:
    """Random signs and an even share of the coordinates to each of `length` sums; nothing where there are no more.

    Consecutive runs of `length` coordinates are added up, each turned by a random shift. Inner products are kept on
    average (count sketch, Charikar et al. 2002). Cost: the `width` coordinates of a row once, and no copy of them.
    """

    def __init__(self, width: int, length: int, seed: int) -> None:
        self.width, self.length = width, min(width, length)
        generator = torch.Generator().manual_seed(seed)
        self._signs = (torch.randint(0, 2, (width,), generator=generator) * 2 - 1).float()
        runs = -(-width // self.length)
        self._shifts: list[int] = torch.randint(0, self.length, (runs,), generator=generator).tolist()

    def __call__(self, rows: Float[Tensor, "b width"]) -> Float[Tensor, "b length"]:
        """The sums of every row."""
        if self.length == self.width:
            return rows
        sums, signs = rows.new_zeros(len(rows), self.length), self._signs.to(rows)
        for run, shift in enumerate(self._shifts):
            start = run * self.length
            turn, end = min(start + self.length - shift, self.width), min(start + self.length, self.width)
            sums[:, shift : shift + turn - start].addcmul_(rows[:, start:turn], signs[start:turn])
            sums[:, : end - turn].addcmul_(rows[:, turn:end], signs[turn:end])
        return sums


class Gradients:
    """Sketched gradients of single examples, of all parameters or of the last layer, at any weights of a network."""

    def __init__(self, subject: Subject, network: Network, settings: Mapping[str, Any]) -> None:
        self.network, self.head = network, None
        self.width = sum(network.sizes)
        if settings["parameters"] == "last-layer":
            self.head = gradients.Head.of(subject.model, subject.train.batch(np.arange(min(4, len(subject.train)))))
            self.width = sum(p.numel() for p in self.head.layer.parameters())
        self.sketch = Sketch(self.width, settings["dimension"], settings["seed"])

    def of(
        self, theta: Tensor, asked: Queries, pull: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Float[Tensor, "b length"], Float[Tensor, "b k"]]:
        """J_iᵀ pull(outputs, targets)_i of what is asked at weights `theta`, and the outputs; in blocks of bounded memory."""

        def run(part: slice) -> tuple[Tensor, Tensor]:
            block = asked.block(part)
            inputs = as_model_input(self.network.model, block.examples.batch(block.rows))
            features, outputs = self._forward(theta, inputs)
            targets = gradients.asked_of(block, outputs.shape[1]).to(outputs.device)
            pulls = pull(outputs, targets).to(outputs)
            if self.head is None:
                made = per_example_gradients(self.network, theta, inputs, pulls)
            else:
                made = (pulls.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
            return self.sketch(made), outputs

        with self.network.mode(training=False), torch.no_grad():
            found = [pair for _, pair in in_blocks(len(asked.rows), max(1, ELEMENTS // self.width), run, NEED)]
        parts, seen = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        for name, values in (("outputs", seen), ("gradients", parts)):
            check_rows(values, asked.rows, len(asked.rows), name, asked.examples)
        return parts, seen

    def _forward(self, theta: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer sees, `[b, p]` with a column of ones for its bias, and the outputs `[b, k]`."""
        if self.head is None:
            outputs = self.network.outputs(theta, inputs)
            return outputs, outputs
        seen: list[Tensor] = []
        hook = self.head.layer.register_forward_hook(lambda _, args, __: seen.append(args[0]))
        try:
            outputs = self.network.outputs(theta, inputs)
        finally:
            hook.remove()
        if self.head.layer.bias is None:
            return seen[0], outputs
        return torch.cat([seen[0], seen[0].new_ones(len(seen[0]), 1)], 1), outputs


def embed(
    replay: Replay, made: Gradients, optimizer: Sgd, curvature: Curvature, progress: Progress = silent
) -> Float[Tensor, "n length"]:
    """E_i of every training example, from the last step back to the first.

    Row k of K_θ is ∂θ_T[k]/∂θ_t in sketched coordinates, K_v the same for the velocity: with a = K_v − η K_θ,
    E_i −= a g_i/B, then K_v = μ a, K_θ += wd a + a Σ c g gᵀ/B. For μ = wd = 0, K_θ = I − M.
    """
    start, length = replay.start[0], made.sketch.length
    along = torch.eye(length, dtype=start.dtype, device=start.device)
    velocity = torch.zeros_like(along)
    values = start.new_zeros(len(replay.train), length)
    for step, before in replay.backwards(progress):
        g, outputs = made.of(before[0], Queries(replay.train, step.rows), replay.objective.loss_gradient)
        velocity.add_(along, alpha=-step.rate)
        moved = g @ velocity.T / len(g)
        rows = torch.from_numpy(step.rows)
        values.index_add_(0, rows.to(values.device), moved, alpha=-1)
        if curvature == "gauss-newton":
            targets = replay.targets[rows].to(outputs.device)
            moved *= curvature_shares(replay.objective, outputs, targets).unsqueeze(1)
        along.add_(velocity, alpha=optimizer.weight_decay).addmm_(moved.T, g)
        velocity.mul_(optimizer.momentum)
    check_finite(values, "embeddings")
    return values


def curvature_shares(
    objective: Objective, outputs: Float[Tensor, "b k"], targets: Float[Tensor, " b"] | Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """c = rᵀΛr/‖r‖⁴ for loss gradients r and curvatures Λ in the outputs: c r rᵀ is closest to Λ of all multiples of r rᵀ.

    It is Λ itself for one output (1/r²) or two classes (p/(1 − p)). 0 where r is 0: that direction is not known.
    """
    pulls = objective.loss_gradient(outputs, targets).double()
    sizes = pulls.square().sum(1)
    curved = torch.einsum("bi,bij,bj->b", pulls, objective.loss_curvature(outputs).double(), pulls)
    return torch.where(sizes > 0, curved / sizes.square(), 0.0).to(outputs)


@dataclass(frozen=True)
class FittedDataValueEmbedding:
    """Embeddings `[train, length]`, and the sketch that brings a query's gradient into their space."""

    subject: Subject
    embeddings: Tensor
    made: Gradients
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`: the queries' gradients, and one product with the embeddings."""
        n = len(self.embeddings)
        values = torch.empty(len(queries.rows), n) if out is None else out
        for start, asked in self._asked(queries):
            block = values[start : start + len(asked)]
            for first in range(0, n, ROWS):
                progress(start * n + first * len(asked), len(queries.rows) * n, "scores")
                block[:, first : first + ROWS] = -asked @ self.embeddings[first : first + ROWS].T
        progress(len(queries.rows) * n, len(queries.rows) * n, "scores")
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            DataValueEmbedding.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first."""
        total = self.embeddings.new_zeros(len(weights), self.embeddings.shape[1])
        for start, asked in self._asked(queries):
            progress(start, len(queries.rows), "weighted gradients")
            total += weights[:, start : start + len(asked)].to(asked) @ asked
        progress(len(queries.rows), len(queries.rows), "weighted gradients")
        return (-total @ self.embeddings.T).float()

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """E_i · g_i at the final weights, float32 `[train]`; what is negative (training is not convex) is given as 0."""
        n = len(self.embeddings)
        values = self.embeddings.new_zeros(n)
        rows, theta = np.arange(n, dtype=np.int64), self._theta()
        for start in range(0, n, ROWS):
            progress(start, n, "self-influence")
            block = Queries(self.subject.train, rows[start : start + ROWS])
            own, _ = self.made.of(theta, block, self.subject.objective.loss_gradient)
            values[start : start + ROWS] = (self.embeddings[start : start + ROWS] * own).sum(1)
        progress(n, n, "self-influence")
        return values.clamp_(min=0).float()

    def tensors(self) -> dict[str, Tensor]:
        """`embeddings`."""
        return {"embeddings": self.embeddings}

    def _theta(self) -> Tensor:
        return self.made.network.flat(self.subject.model.state_dict())

    def _asked(self, queries: Queries) -> Iterator[tuple[int, Tensor]]:
        """(first query, sketched ∇m_q `[b, length]`) in blocks."""
        if not len(queries.rows):
            raise DataError("Expected at least one query; found none. Name the test rows to explain.")
        pull = partial(self.subject.objective.measure_gradient, target=queries.target)
        for start in range(0, len(queries.rows), ROWS):
            yield start, self.made.of(self._theta(), queries.block(slice(start, start + ROWS)), pull)[0]
