"""What does the model say elsewhere after one more lesson? A fresh copy of its weights is fine-tuned on each sample alone.

E[i, j] = m_j(θ_i) − m_j(θ), in evaluation mode: no dropout, frozen batch norm. Many samples move as one batch of models;
the subject's model, its weights and modes are never changed. What the numbers mean is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Progress, Queries, Subject, Target, silent
from explorer.errors import DataError, ModelError
from explorer.influence.gradients import asked_of
from explorer.influence.layers import check_steady
from explorer.influence.replay import MEGABYTE, Network
from explorer.influence.trajectory import Adam, Sgd
from explorer.laboratory.lessons import Array64, Lessons, Part, Rows, Taught
from explorer.laboratory.movable import Movable
from explorer.laboratory.rates import search
from explorer.laboratory.settings import Teaching
from explorer.training import EVALUATION_BATCH

__all__ = ["Bench", "Lessons", "Taught", "Teaching", "find_rate", "teach"]

COPIES = 8
"""Times the moving tensors that a lesson holds at once: weights, moments, gradient, and each new one of them."""
TRACES = 3
"""Times its forward pass's outputs that a lesson's gradient holds at once."""
WORSE = 10.0
"""A lesson diverged when its own loss grew this many times, and above the median loss of all lessons."""
FAR = 1.0
"""... or when its weights moved by so many times the norm of the model's."""
ROUNDINGS = 8
"""Roundings of the largest output that a difference of two measures may be without meaning anything."""
FAULTS = (RuntimeError, NotImplementedError, TypeError, ValueError)
"""What torch raises for a model that it cannot take apart in this way."""
FEW = 8
"""Up to so many lessons the first order is found along each one's gradient, beyond from the gradients of all probes."""
STEADY = 8
"""Probes on which the model shows that neither chance nor the rest of a batch moves it."""


def teach(
    subject: Subject, lessons: Lessons, probes: Queries, settings: Teaching | None = None, progress: Progress = silent
) -> Taught:
    """Fine-tunes on every lesson alone and measures every probe after each.

    Cost: a pass over the probes and `steps` steps for each lesson; as much again for the first-order matrix. `progress`
    counts lessons and may stop the work at any block; there is nothing to put back.

    Raises:
        SettingsError: unknown layers, or no rate was found and none is given.
        DataError: labels that the model does not have.
        ModelError: nothing to train, or a model whose output depends on chance or on its batch.
    """
    bench = Bench(subject, lessons, probes, settings or Teaching(), progress)
    return bench.join([bench.run(part, progress) for part in bench.blocks])


def find_rate(subject: Subject, lessons: Lessons, settings: Teaching, progress: Progress = silent) -> Teaching:
    """The settings with a rate searched on these lessons, for experiments that are to share one; a given rate stays."""
    if settings.rate is not None:
        return settings
    probe = Queries(lessons.examples, lessons.grouped[:1, 0])
    return replace(settings, rate=Bench(subject, lessons, probe, settings, progress).rate)


class Bench:
    """Everything that stays the same between lessons: the rate, the probes as they were, and which lessons share a block.

    `run` answers one of `blocks`, in any order and always the same; `join` puts the answers together. A job keeps each
    `Part` and makes only those that are missing.
    """

    def __init__(
        self, subject: Subject, lessons: Lessons, probes: Queries, settings: Teaching, progress: Progress = silent
    ) -> None:
        self.subject, self.lessons, self.probes, self.settings = subject, lessons, probes, settings
        if not len(probes.rows):
            raise DataError("Expected at least one probe; found none. Name the examples to measure.")
        check_steady(subject.model, probes.examples.batch(probes.rows[:STEADY]))
        self._modes = Network(subject.model, subject.model.state_dict())
        self.movable = Movable(subject.model, settings)
        self._gradients: list[Tensor] | None = None
        with self._modes.mode(training=False):
            saved = self._saved()
            each = COPIES * self.movable.nbytes + TRACES * saved * self.lessons.grouped.shape[1]
            if settings.rank is not None:
                each += 2 * sum(t.nbytes for t in self.movable.base.values())
            self.block = max(1, int(settings.memory * MEGABYTE / each))
            self._batch = max(1, min(EVALUATION_BATCH, int(settings.memory * MEGABYTE / (TRACES * saved))))
            self._ask()
            self._choose()
            self.losses = self._losses()
        self.rate = settings.rate if settings.rate is not None else self._searched(progress)

    @property
    def blocks(self) -> list[Rows]:
        """Lessons that are taught together."""
        return [np.arange(s, min(s + self.block, len(self.lessons))) for s in range(0, len(self.lessons), self.block)]

    def run(self, part: Rows, progress: Progress = silent) -> Part:
        """Teaches the lessons `part` and measures all probes after each."""
        total = len(self.lessons)
        progress(int(part[0]), total, f"teaching {len(part)} of {total} samples")
        with self._modes.mode(training=False):
            moved, gradients, after = self._moved(part, self.rate)
            own = np.stack([self.losses[part], after], 1)
            failed = self._failed(part, moved, own)
            values = np.full((len(part), len(self.probes.rows)), np.nan)
            for place, lesson in enumerate(part):
                if int(lesson) in failed:
                    continue
                progress(int(lesson), total, f"measuring {len(self.probes.rows)} probes")
                with torch.no_grad():
                    measured = self._measured({n: t[place] for n, t in moved.items()})
                if not np.isfinite(measured[self.measurable]).all():
                    failed[int(lesson)] = self._said(lesson, "probes that are NaN or infinite after it", self.rate)
                    continue
                values[place, self.measurable] = (measured - self.before)[self.measurable]
            first = self._first_order(gradients) if self.settings.first_order else None
        return Part(part, values, own, failed, first)

    def join(self, parts: Sequence[Part]) -> Taught:
        """The answer from the parts of all blocks, in any order."""
        ordered = sorted(parts, key=lambda part: int(part.lessons[0]))
        if not np.array_equal(np.concatenate([p.lessons for p in ordered]), np.arange(len(self.lessons))):
            raise DataError("Expected every block of lessons once; found others. Run the blocks that are missing.")
        first = [part.first_order for part in ordered if part.first_order is not None]
        return Taught(
            values=np.concatenate([part.values for part in ordered]),
            before=self.before,
            own_loss=np.concatenate([part.own_loss for part in ordered]),
            lesson_ids=self.lessons.ids,
            probe_ids=np.asarray(self.probes.examples.ids)[self.probes.rows],
            settings=self.settings,
            rate=self.rate,
            first_order=np.concatenate(first) if first else None,
            resolution=self.resolution,
            stacked=self.movable.stacked,
            failed={lesson: why for part in ordered for lesson, why in part.failed.items()},
            unmeasured=tuple(int(j) for j in np.flatnonzero(~self.measurable)),
        )

    def _saved(self) -> int:
        """Bytes that one example's way through the model keeps, weights left out: those are there once for a whole batch."""
        total = 0
        moved = {n: t.detach().requires_grad_(True) for n, t in self.movable.start.items()}
        weights = {t.untyped_storage().data_ptr() for t in (*moved.values(), *self.movable.base.values())}

        def seen(tensor: Tensor) -> Tensor:
            nonlocal total
            if tensor.untyped_storage().data_ptr() not in weights:
                total += tensor.nbytes
            return tensor

        inputs = self.movable.inputs(self.probes.examples.batch(self.probes.rows[:1]))
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
            outputs = self.movable.call(moved, inputs)
        return max(total + outputs.nbytes, 1)

    def _ask(self) -> None:
        """What the probes are asked, and what the model says of them before any lesson."""
        objective, probes = self.subject.objective, self.probes
        chosen = probes.target == "prediction" and objective.task != "regression"
        self._target: Target = "label" if chosen else probes.target
        targets, before, largest = [], [], 1.0
        with torch.no_grad():
            for part in self._parts(self._batch):
                outputs = self._call(part)
                asked = asked_of(probes.block(part), outputs.shape[1])
                targets.append(self._placed(objective.predict(outputs) if chosen else asked))
                before.append(objective.measure(outputs, targets[-1], self._target).double().cpu().numpy())
                finite = outputs[outputs.isfinite()]
                largest = max(largest, float(finite.abs().max())) if finite.numel() else largest
        self._targets = torch.cat(targets)
        self.before = np.concatenate(before)
        self.measurable = np.isfinite(self.before)
        self.resolution = ROUNDINGS * torch.finfo(self.movable.dtype).eps * largest

    def _choose(self) -> None:
        """One `vmap` over lessons where the model allows it, else one after the other."""
        few = np.arange(min(2, len(self.lessons)))
        try:
            self._gradient(few, self._copies(len(few)))
            if self.settings.first_order:
                self._pulled(slice(0, 1))
        except FAULTS:
            self.movable.stacked, self.block = False, 1
            try:
                self._gradient(few[:1], self._copies(1))
            except FAULTS as error:
                raise ModelError(
                    f"Expected a model that can be called with other weights in {self.settings.dtype}; it raised "
                    f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]} Choose the other dtype, or other layers."
                ) from error
        self._forwards = self.settings.first_order and len(self.lessons) <= FEW
        try:
            if self._forwards:
                self.movable.pushed(self.movable.start, self._inputs(slice(0, 1)))
        except FAULTS:  # no second derivative: from the gradients of all probes
            self._forwards = False

    def _parts(self, size: int) -> list[slice]:
        return [slice(start, start + size) for start in range(0, len(self.probes.rows), size)]

    def _inputs(self, part: slice) -> Tensor:
        return self.movable.inputs(self.probes.examples.batch(self.probes.rows[part]))

    def _call(self, part: slice, moved: dict[str, Tensor] | None = None) -> Tensor:
        """Outputs of the probes in `part`, at the start or where the tensors moved."""
        return self.movable.call(self.movable.start if moved is None else moved, self._inputs(part))

    def _placed(self, targets: Tensor) -> Tensor:
        placed = targets.to(next(iter(self.movable.start.values())).device)
        return placed.to(self.movable.dtype) if placed.is_floating_point() else placed

    def _copies(self, count: int) -> dict[str, Tensor]:
        return {name: t.detach().expand(count, *t.shape).contiguous() for name, t in self.movable.start.items()}

    def _lesson_losses(self, part: Rows, moved: dict[str, Tensor]) -> Tensor:
        """Loss `[b]` of each lesson at its own weights, summed over its examples."""
        rows = self.lessons.grouped[part]
        batch = self.movable.inputs(self.lessons.examples.batch(rows.flatten()))
        outputs = self.movable.each(moved, batch.view(*rows.shape, *batch.shape[1:])).flatten(0, 1)
        targets = self._placed(self.lessons.targets(part, outputs.shape[1])).flatten(0, 1)
        return self.subject.objective.loss(outputs, targets).view(rows.shape).sum(1)

    def _gradient(self, part: Rows, moved: dict[str, Tensor]) -> dict[str, Tensor]:
        points = {name: tensor.detach().requires_grad_(True) for name, tensor in moved.items()}
        with torch.enable_grad():
            total = self._lesson_losses(part, points).sum()
            found = torch.autograd.grad(total, list(points.values()), materialize_grads=True)
        return dict(zip(points, found, strict=True))

    def _losses(self) -> Array64:
        with torch.no_grad():
            found = [self._lesson_losses(part, self._copies(len(part))) for part in self.blocks]
        return torch.cat(found).double().cpu().numpy()

    def _moved(self, part: Rows, rate: float) -> tuple[dict[str, Tensor], dict[str, Tensor], Array64]:
        """Weights after the steps, the gradients of the first, and the lessons' own losses afterwards."""
        optimizer = Adam() if self.settings.optimizer == "adam" else Sgd(momentum=0.0)
        moved = self._copies(len(part))
        shapes = {name: tensor.shape for name, tensor in moved.items()}
        states = {name: optimizer.start(tensor.flatten(1)) for name, tensor in moved.items()}
        first: dict[str, Tensor] = {}
        for _ in range(self.settings.steps):
            gradient = self._gradient(part, moved)
            first = first or gradient
            states = {name: optimizer.step(s, gradient[name].flatten(1), rate) for name, s in states.items()}
            moved = {name: state[0].view(shapes[name]) for name, state in states.items()}
        with torch.no_grad():
            after = self._lesson_losses(part, moved).double().cpu().numpy()
        return moved, first, after

    def _failed(self, part: Rows, moved: dict[str, Tensor], own: Array64) -> dict[int, str]:
        """Why, for the lessons that did not come out finite, or whose step was too large."""
        gone = self.movable.flat(moved) - self.movable.flat({n: t.unsqueeze(0) for n, t in self.movable.start.items()})
        far = (gone.norm(dim=1) / self.movable.norm).double().cpu().numpy()
        median = float(np.nanmedian(self.losses)) if np.isfinite(self.losses).any() else 0.0
        failed = {}
        for lesson, (before, after), moves in zip(part, own, far, strict=True):
            if not np.isfinite(before):
                failed[int(lesson)] = self._said(lesson, f"a loss of {before} before it", None)
            elif not (np.isfinite(moves) and np.isfinite(after)):
                found = "weights or a loss that are NaN or infinite after it"
                failed[int(lesson)] = self._said(lesson, found, self.rate)
            elif after > WORSE * before and after > median:
                found = f"its own loss grown from {before:.3g} to {after:.3g}"
                failed[int(lesson)] = self._said(lesson, found, self.rate)
            elif moves > FAR:
                found = f"weights that moved by {moves:.2g} times the norm of the model's"
                failed[int(lesson)] = self._said(lesson, found, self.rate)
        return failed

    def _said(self, lesson: int, found: str, rate: float | None) -> str:
        remedy = "Mend or drop this example." if rate is None else f"Try a rate of {rate / 10:.2g}."
        return f"Expected a small and finite lesson from {str(self.lessons.ids[lesson])!r}; found {found}. {remedy}"

    def _measured(self, moved: dict[str, Tensor]) -> Array64:
        found = []
        for part in self._parts(self._batch):
            said = self.subject.objective.measure(self._call(part, moved), self._targets[part], self._target)
            found.append(said.double().cpu().numpy())
        return np.concatenate(found)

    def _pulled(self, part: slice) -> Tensor:
        """∇m_j at the start of the probes in `part`, `[b, size]`."""
        with torch.no_grad():
            outputs = self._call(part)
        pulls = self.subject.objective.measure_gradient(outputs, self._targets[part], self._target)
        return self.movable.pulled(self._inputs(part), pulls)

    def _first_order(self, gradients: dict[str, Tensor]) -> Array64:
        """−steps · rate · ∇L_i·∇m_j `[b, j]`; the probes' gradients are kept where memory allows."""
        scale = -self.settings.steps * self.rate
        if self._forwards:
            count = len(next(iter(gradients.values())))
            return scale * np.stack([self._along({n: g[at] for n, g in gradients.items()}) for at in range(count)])
        limit, each = self.settings.memory * MEGABYTE, self.movable.nbytes
        found = self._gradients
        parts = self._parts(max(1, min(self._batch, int(limit / (TRACES * each)))))
        if found is None and len(self.probes.rows) * each <= limit:
            self._gradients = found = [self._pulled(part) for part in parts]
        blocks = found if found is not None else (self._pulled(part) for part in parts)
        flat = self.movable.flat(gradients)
        return np.asarray(scale * torch.cat([flat @ block.T for block in blocks], 1).double().cpu().numpy())

    def _along(self, direction: dict[str, Tensor]) -> Array64:
        """How fast the measures of all probes change in a direction, `[j]`."""
        found = []
        for part in self._parts(self._batch):
            outputs, tangent = self.movable.pushed(direction, self._inputs(part))
            pulls = self.subject.objective.measure_gradient(outputs, self._targets[part], self._target)
            found.append((pulls * tangent).sum(1).double().cpu().numpy())
        return np.concatenate(found)

    def _searched(self, progress: Progress) -> float:
        def by_block(rows: Rows) -> list[Rows]:
            return [rows[start : start + self.block] for start in range(0, len(rows), self.block)]

        def slope(rows: Rows) -> float:
            found = []
            for part in by_block(rows):
                gradient = self.movable.flat(self._gradient(part, self._copies(len(part)))).double()
                found.append(gradient.abs().sum(1) if self.settings.optimizer == "adam" else gradient.square().sum(1))
            return self.settings.steps * float(torch.cat(found).mean())

        def after(rows: Rows, rate: float) -> Array64:
            return np.concatenate([self._moved(part, rate)[2] for part in by_block(rows)])

        def tell(trial: int) -> None:
            progress(0, len(self.lessons), f"searching a rate, trial {trial}")

        with self._modes.mode(training=False):
            return search(self.losses, slope, after, tell)
