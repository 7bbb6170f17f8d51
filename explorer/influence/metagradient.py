"""Which training examples moved this prediction, through every step of the training that was really made?

Exact to first order for one training: its batches, rates and initial weights, no inverse and no damping. Says nothing
of other seeds or orders, and needs the training log and a model without randomness in training mode.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Progress, Queries, Scores, Subject, silent
from explorer.errors import DataError, SettingsError
from explorer.influence.backward import check_finite as check_rows
from explorer.influence.blocks import Need, in_blocks, says_what_fits
from explorer.influence.gradients import asked_of
from explorer.influence.replay import MEGABYTE, Network, Replay, check_finite, per_example_gradients
from explorer.influence.trajectory import REMOVALS, Removal, State, Step, Trajectory, trajectory_of
from explorer.loading import as_model_input
from explorer.objectives import measure_unit

T = TypeVar("T")

NEED = Need(
    "one query's way back through the training",
    remedy="Choose a smaller memory (--set memory=...), so that fewer states are kept, or another method.",
)
MOST_AT_ONCE = 64
"""Directions per product of second derivatives at most: on a CPU more are no faster a piece."""
TRACES = 3
"""Times the memory that a forward pass saves which one direction's second derivatives hold (measured 2.1 to 2.5)."""


@dataclass(frozen=True)
class Metagradient:
    """s(q, i) = ∂m_q(θ_T)/∂w_i at w = 1, where w_i weighs example i's loss in every batch of the training it is in.

    The derivative of the measure through the whole training (MAGIC, Ilyas & Engstrom 2025), as reverse-mode
    differentiation over the replayed steps with all queries as one `vmap`. Positive: having i helps. The score is a
    first-order estimate of retraining with the same order without i; how good it is depends on how smooth training is.

    `removal` says what the weight does to its batch, and so which retraining is estimated. "leaves" (default): the batch
    loss is Σ w l / Σ w, at w_i = 0 what `train_epochs` makes without that row, so the score estimates what this product's
    own retraining measures; a batch pulls with g_i − ḡ. "zero": Σ w l / B, the divisor fixed, the reading of most papers.
    On the digits MLP each predicts its own retraining (LDS .92 and .92 at 1 % removal), at 50 % the first better (.70
    against .63). `memory` bounds, in megabytes each, the kept states of the training and the work on a block of queries.
    """

    removal: Removal = "leaves"
    memory: float = 1024.0
    name: ClassVar[str] = "metagradient"

    def __post_init__(self) -> None:
        if self.removal not in REMOVALS:
            raise SettingsError(f"Expected removal to be one of {', '.join(REMOVALS)}; found {self.removal!r}.")
        if not 0 < self.memory < float("inf"):
            raise SettingsError(f"Expected memory > 0 in megabytes; found {self.memory!r}. Allow some, such as 1024.")

    def fit(self, subject: Subject, progress: Progress = silent) -> "FittedMetagradient":
        """`along` the training that the subject tells of; raises `ModelError` where it tells of none."""
        return self.along(subject, trajectory_of(subject), progress)

    @says_what_fits
    def along(self, subject: Subject, trajectory: Trajectory, progress: Progress = silent) -> "FittedMetagradient":
        """Replays the training once and keeps its states. Cost: one training without its evaluations.

        Raises:
            ModelError: the training does not end at the subject's weights, or is not a function of its examples.
            DataError: the steps name rows that the training set has not.
            SettingsError: `memory` is too small for the states of this training.
        """
        began = time.perf_counter()
        network = Network(subject.model, trajectory.initial)
        replay = Replay(network, subject.train, subject.objective, trajectory, self.memory * MEGABYTE)
        gap = replay.check_ends_at(subject.model, progress)
        stats = {
            "removal": self.removal,
            "memory": self.memory,
            "steps": len(trajectory.steps),
            "segment": replay.segment,
            "replay_error": gap,
            "seconds": time.perf_counter() - began,
        } | trajectory.settings()
        return FittedMetagradient(subject, replay, stats)

    def restore(
        self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> "FittedMetagradient":
        """The fitted method from `tensors()` and `stats`; its states are computed again when first needed."""
        optimizer = {k: v for k, v in stats.items() if k not in _OWN_STATS}
        trajectory = Trajectory.restored(tensors, optimizer)
        network = Network(subject.model, trajectory.initial)
        memory = float(stats["memory"]) * MEGABYTE
        return FittedMetagradient(
            subject, Replay(network, subject.train, subject.objective, trajectory, memory), dict(stats)
        )


_OWN_STATS = ("removal", "memory", "steps", "segment", "replay_error", "seconds")


@dataclass(frozen=True)
class FittedMetagradient:
    """A training kept for going back through, once for all queries that fit into memory together."""

    subject: Subject
    replay: Replay
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; per query and step about three passes over the batch.

        Raises `ModelError` where the derivative overflows: training was too rough for a first order to mean anything.
        """
        n = len(self.subject.train)
        total = torch.zeros(len(queries.rows), n) if out is None else out.zero_()

        def work(part: slice, gradients: Tensor, told: Progress) -> None:
            self._through(gradients, total[part].zero_(), told)

        for _ in self._query_blocks(queries, work, progress):
            pass
        return Scores(
            total,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            Metagradient.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first, so only k directions go back."""

        def summed(part: slice, gradients: Tensor, _: Progress) -> Tensor:
            return weights[:, part].to(gradients) @ gradients

        total: Tensor | None = None
        for _, found in self._query_blocks(queries, summed, silent):
            total = found if total is None else total + found
        assert total is not None
        values = torch.zeros(len(total), len(self.subject.train))

        def work(part: slice, total: Tensor = total) -> None:
            told = _part(progress, part.start, part.stop - part.start, len(total))
            self._through(total[part], values[part].zero_(), told)

        for _ in in_blocks(len(total), self._directions(), work, NEED):
            pass
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """s(i, i), float32 `[train]`: every training example is a query about itself, so it costs n of them.

        Training that is not convex can make an example hurt itself a little; a negative value is given as 0.
        """
        rows = np.arange(len(self.subject.train), dtype=np.int64)
        own = torch.zeros(len(rows))

        def work(part: slice, gradients: Tensor, told: Progress) -> Tensor:
            values = torch.zeros(len(gradients), len(rows))
            self._through(gradients, values, told)
            return values.diagonal(part.start)

        for part, found in self._query_blocks(Queries(self.subject.train, rows), work, progress):
            own[part] = found
        return own.clamp_(min=0)

    def tensors(self) -> dict[str, Tensor]:
        """The training log: initial weights and steps. The states on the way are not saved."""
        return self.replay.trajectory.tensors()

    def _query_blocks(
        self, queries: Queries, work: Callable[[slice, Tensor, Progress], T], progress: Progress
    ) -> Iterator[tuple[slice, T]]:
        """What `work` makes of ∇m_q at the final weights `[b, P]`, for blocks of queries that fit into memory.

        It gets the places of the block, the gradients, and their share of progress.
        """
        total, size = len(queries.rows), self._directions()
        if not total:
            raise DataError("Expected at least one query; found none. Name the test rows to explain.")

        def run(part: slice) -> T:
            block = queries.block(part)
            told = _part(progress, part.start, len(block.rows), total)
            return work(part, measure_gradients(self.subject, self.replay, block, told), told)

        yield from in_blocks(total, size, run, NEED)

    def _directions(self) -> int:
        """How many directions go back together: their adjoints and as much again on the way are within the memory."""
        state = len(self.replay.start) * self.replay.start[0].nbytes
        return max(1, int(self.stats["memory"] * MEGABYTE / (3 * state)))

    def _through(self, gradients: Float[Tensor, "q P"], values: Float[Tensor, "q n"], progress: Progress) -> None:
        """Adds ∂m/∂w of every step to `values`, going back from ∂m/∂θ_T = `gradients`.

        For SGD with a velocity v: a = λ_v − η λ_θ, s += ∂(a·ḡ)/∂w, λ_v = μ a, λ_θ += wd a + H a (MATHS.md).
        """
        adjoint: State = (gradients, *(gradients.new_zeros(len(gradients), len(t)) for t in self.replay.start[1:]))
        optimizer, removal = self.replay.trajectory.optimizer, self.stats["removal"]
        size = self._at_once()
        with self.replay.network.mode(training=True):
            for step, before in self.replay.backwards(progress):
                batch = Batch.of(self.replay, before[0], step, removal)
                direction, adjoint = optimizer.pull(before, batch.gradient.detach(), step.rate, adjoint)
                rows = torch.from_numpy(step.rows)
                for start in range(0, len(direction), size):
                    block = slice(start, start + size)
                    curved, effects = batch.products(direction[block])
                    adjoint[0][block] += curved
                    values[block].index_add_(1, rows, effects.to(values))
        check_finite(values, "influences")

    def _at_once(self) -> int:
        """How many directions share a product of second derivatives, by what the largest batch's forward pass saves."""
        step, saved = max(self.replay.trajectory.steps, key=lambda step: len(step.rows)), self.replay.start[0].nbytes

        def seen(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        with (
            self.replay.network.mode(training=True),
            torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor),
        ):
            self.replay.losses(self.replay.start[0].detach().requires_grad_(True), step.rows)
        return max(1, min(MOST_AT_ONCE, int(self.stats["memory"] * MEGABYTE / (TRACES * saved))))


class Batch(NamedTuple):
    """The mean gradient `[P]` of a batch as a function of the weights θ `[P]` and of the examples' weights w `[b]`."""

    theta: Tensor
    weights: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, replay: Replay, theta: Tensor, step: Step, removal: Removal) -> "Batch":
        """At weights `theta` and w = 1, ready to be differentiated again."""
        point, weights = theta.detach().requires_grad_(True), theta.new_ones(len(step.rows)).requires_grad_(True)
        with torch.enable_grad():
            total = (weights * replay.losses(point, step.rows)).sum()
            mean = total / (weights.sum() if removal == "leaves" else len(step.rows))
            (gradient,) = torch.autograd.grad(mean, point, create_graph=True)
        return cls(point, weights, gradient)

    def products(self, directions: Float[Tensor, "q P"]) -> tuple[Float[Tensor, "q P"], Float[Tensor, "q b"]]:
        """(H a, ∂(a · gradient)/∂w) for directions a: one more backward pass, all directions together.

        The graph of the first two passes is shared; the second derivative is reverse over reverse.
        """

        def back(direction: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(self.gradient, (self.theta, self.weights), direction, retain_graph=True)

        if len(directions) == 1:
            curved, effects = back(directions[0])
            return curved.unsqueeze(0), effects.unsqueeze(0)
        curved, effects = torch.func.vmap(back)(directions)
        return curved, effects


def measure_gradients(
    subject: Subject, replay: Replay, queries: Queries, progress: Progress = silent
) -> Float[Tensor, "q P"]:
    """∇m_q `[q, P]` at the end of the training, in evaluation mode."""
    theta = replay.final(progress)
    inputs = as_model_input(subject.model, queries.examples.batch(queries.rows))
    with replay.network.mode(training=False):
        with torch.no_grad():
            outputs = replay.network.outputs(theta, inputs)
        targets = asked_of(queries, outputs.shape[1]).to(outputs.device)
        pulls = subject.objective.measure_gradient(outputs, targets, queries.target).to(outputs)
        check_rows(outputs, queries.rows, len(queries.rows), "outputs", queries.examples)
        gradients = per_example_gradients(replay.network, theta, inputs, pulls)
    check_rows(gradients, queries.rows, len(queries.rows), "gradients", queries.examples)
    return gradients


def _part(progress: Progress, start: int, size: int, total: int) -> Progress:
    """Progress of one block of `size` out of `total` directions, as a share of all of them."""

    def told(done: int, of: int, note: str) -> None:
        progress(start * of + size * done, total * of, note)

    return told
