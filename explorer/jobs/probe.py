"""How long does it take on this machine? The stages of a job timed on samples that grow until the time for it is used.

Knows no files, and forgets all that it computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from explorer import evidence, influence, maps, memorization, training
from explorer.contracts import Dataset, Examples, Fitted, Method, Queries, Recipe, Redampable, Subject, Training
from explorer.errors import DataError, ModelError
from explorer.influence.conjugate_gradient import ConjugateGradient
from explorer.influence.gauss_newton import GaussNewton
from explorer.influence.iterative import FittedIterative
from explorer.influence.lissa import Lissa
from explorer.influence.refine import Refine
from explorer.influence.relative import FittedRelative, Relative
from explorer.jobs.classes import class_influence
from explorer.jobs.damping_grid import dampings, grid
from explorer.jobs.evidence import KEPT, halves, predicted
from explorer.jobs.memorized import nearest_inputs, resamples, witness
from explorer.jobs.pipeline import EVIDENCE, NEIGHBORS, second_opinion
from explorer.jobs.predictions import reader_of
from explorer.jobs.process import usable_cores
from explorer.jobs.scoring import score_block
from explorer.jobs.subject import make_subject, outputs_of
from explorer.jobs.threads import threads, training_threads
from explorer.jobs.timings import SOLUTIONS, Timings
from explorer.retraining import measures, random_masks
from explorer.sources.planted import Rearranged
from explorer.store.run import BLOCK

BUDGET, SHARE = 3.0, 0.1
"""Seconds of samples, their first calls aside, or that share of what the run will take, where that is more: none is begun
that would take longer, but that two are tried where one fits."""
LIMIT = 12.0
"""Seconds after which a sample is given up, where the method listens; no share is larger."""
WARMING, SMALLEST = 16, 64
"""Training examples of the sample that pays for first calls, and of the first that counts."""
GROWTH, LEAST_GROWTH = 4, 1.5
"""The next sample has as many times more rows, or as many as there is time for (one that is not larger by the least tells
nothing new); the second one half as many, before it is known what does not grow."""
AGAIN = 0.05
"""What takes fewer seconds is timed twice, and the shorter time taken."""
FEW_QUERIES = 16
"""Queries scored at least: fewer take as long."""
COMPARED = "dampings"
"""Part of evidence: one damping compared."""
ROUND = ("curvature", "scores", COMPARED, "memorization", SOLUTIONS)
"""Parts that are the method's, timed on each sample."""
INPUTS = "inputs"
"""Part of memorization: the neighbors by inputs, of a classification that is trained here."""
PLAIN, PLAIN_ROWS = ("predictions", "map", "neighbors"), (WARMING, 256, 1024)
"""Stages that are the same for every method, and the rows that they are timed on."""
WARMING_DIRECTIONS = 8
"""Weighted sums of queries in the first calls, which need not be as many as in a job."""
PATIENCE = 0.5
"""Seconds of computing that the scores of a first sample may take for a whole block to be tried."""
SOLVED = 2.0
"""Seconds of computing that solving for each example of a sample may take; beyond it, its queries say what one takes."""


class TooLongError(Exception):
    """Raised by the clock to stop a method in the middle of a sample."""


@dataclass(frozen=True)
class Sample:
    """Rows of a data set, drawn blindly, as many test rows in proportion."""

    data: Dataset
    rows: int

    @classmethod
    def of(cls, data: Dataset, rows: int, seed: int = 0) -> Sample:
        """A sample of `rows` training examples, the whole data set where it has no more."""
        if rows >= len(data.train):
            return cls(data, len(data.train))
        share = rows / len(data.train)
        draw = np.random.default_rng(seed)
        test = max(1, round(share * len(data.test)))
        parts = [_part(data.train, draw, rows), _part(data.test, draw, test)]
        return cls(replace(data, train=parts[0], test=parts[1]), rows)


def _part(examples: Examples, draw: np.random.Generator, count: int) -> Examples:
    rows = np.sort(draw.permutation(len(examples))[:count])
    return Rearranged(examples, rows, np.asarray(examples.labels)[rows], examples.ids[rows])


def probe(
    data: Dataset,
    model: torch.nn.Module,
    method: Method,
    recipe: Recipe,
    *,
    trained: bool,
    queries: int,
    retrainings: int = 0,
    checked: int = 0,
    budget: float = BUDGET,
) -> Timings:
    """Times every stage but the data's on growing samples; `model` is trained a little unless it is `trained`.

    `retrainings` is how many models are trained again on random halves, `checked` how many test examples they are asked about.

    Raises:
        ExplorerError: what the job would end with, such as a last layer too large for the method.
    """
    found = Timings(solved_over=solved_over(own(method)))
    recipe = replace(recipe, epochs=training.resolve_epochs(recipe, len(data.train)))
    trial = _Trial(found, model, method, recipe, trained, queries, retrainings, checked, _Clock(LIMIT))
    with threads(max(1, usable_cores() - 1)):  # as many as a job's worker has
        if not trained:
            _training(found, data, model, recipe, budget / 4)
        if retrainings:
            _retraining(found, data, model, recipe, retrainings, budget / 4)
        for rows in PLAIN_ROWS:
            trial.plain(Sample.of(data, rows))
        rows, linear = min(WARMING, len(data.train)), linear_from(method, data)
        try:
            while rows:
                trial.on(Sample.of(data, rows))
                rows = _next(found, rows, len(data.train), budget, linear)
        except TooLongError:
            found.given_up = f"{rows:,} training examples took more than {LIMIT:.0f} s"
            if "scores" not in found.first:  # first calls alone say nothing of more rows
                found.points = {part: points for part, points in found.points.items() if part not in ROUND}
    return found


def own(method: Method) -> Method:
    """The method whose cost it is: that below relative influence."""
    return influence.method_from(method.of, method.settings) if isinstance(method, Relative) else method


def solved_over(method: Method) -> int | None:
    """Rows that a solution goes over; None for all."""
    return method.sample if isinstance(method, ConjugateGradient | Refine) else None


def linear_from(method: Method, data: Dataset) -> int:
    """Rows of a sample from which on a line says what more rows cost; 0 where any will do.

    Gauss-Newton's columns must all be there, and what iterates needs enough rows to take as many steps as on all.
    """
    if isinstance(method, GaussNewton):
        return -(-method.columns // max(1, outputs_of(data)))
    if isinstance(method, Relative):
        probed = method.form == "theta" and isinstance(own(method), ConjugateGradient | Refine | Lissa)
        return max(linear_from(own(method), data), method.probes if probed else 0)  # as many systems for more rows
    if isinstance(method, Lissa):  # steps over batches, and then residuals over all rows
        return 2 * method.batch
    return 2 * SMALLEST if isinstance(method, ConjugateGradient | Refine) else 0


def _next(found: Timings, rows: int, most: int, budget: float, linear: int) -> int:
    """Rows of the next sample; 0 where it would go beyond the budget, or all have been tried."""
    if "scores" not in found.first:
        brief = found.spent(ROUND) < budget
        found.warmed(ROUND)
        return min(SMALLEST if brief else 2 * rows, most)
    whole = sum(found.seconds(part, most) or 0.0 for part in ROUND if part != SOLUTIONS)
    allowed = min(LIMIT, max(budget, SHARE * whole))
    if sum(tried >= linear for tried, _ in found.points["scores"]) < 2:  # two tell what does not grow
        larger = linear if linear > rows and _expected(found, linear) < LIMIT else rows * GROWTH // 2
        enough = found.spent(ROUND) > (LIMIT if linear else allowed) or _expected(found, larger) > LIMIT
        return 0 if enough or rows >= most else min(most, larger)
    for growth in (GROWTH, GROWTH // 2, LEAST_GROWTH):
        larger = min(most, round(rows * growth))
        if rows < larger and found.spent(ROUND) + _expected(found, larger) <= allowed:
            return larger
    return 0


def _expected(found: Timings, rows: int) -> float:
    """Seconds that a sample of so many rows will take."""
    lines = {part: line.at(rows) for part in ROUND if (line := found.line(part)) is not None}
    return min(SOLVED, rows * lines.pop(SOLUTIONS, 0.0)) + sum(lines.values())


def _training(found: Timings, data: Dataset, model: torch.nn.Module, recipe: Recipe, budget: float) -> None:
    """One epoch on samples that grow; leaves the model with the last one's weights."""
    subject = make_subject(model, data, recipe.weight_decay)
    rows, once = min(8 * recipe.batch_size, len(data.train)), replace(recipe, epochs=1)
    for attempt in range(8):
        part = Sample.of(data, rows)

        def epoch(part: Sample = part) -> None:
            for _ in training.train_epochs(model, subject.objective, part.data.train, part.data.test, once):
                pass

        with threads(training_threads(model, recipe.batch_size)):
            taken = _noted(found, "training", epoch)
        found.add("training", part.rows, taken.computed)
        if not attempt:
            found.warmed(("training",))
        elif part.rows >= len(data.train) or found.spent(("training",)) + taken.seconds * GROWTH > budget:
            break
        else:
            rows = min(len(data.train), rows * GROWTH)


def _retraining(
    found: Timings, data: Dataset, model: torch.nn.Module, recipe: Recipe, count: int, budget: float
) -> None:
    """One epoch of `count` models on random halves of samples that grow; what the job would refuse is noted."""
    subject, rows = make_subject(model, data, recipe.weight_decay), 4 * recipe.batch_size
    for attempt in range(8):
        part = Sample.of(data, rows)
        plan = halves(lambda _: model, part.data.train, subject.objective, replace(recipe, epochs=1))
        masks = random_masks(part.rows, count, KEPT, recipe.seed)
        asked = Queries(part.data.test, np.arange(1, dtype=np.int64))
        act = partial(measures, plan, masks, [recipe.seed] * count, asked, model)
        try:
            taken = _noted(found, EVIDENCE, act)
        except (DataError, ModelError) as error:
            found.left_out = str(error)
            return
        found.add(EVIDENCE, part.rows, taken.computed)
        if not attempt:
            found.warmed((EVIDENCE,))
        elif part.rows >= len(data.train) or found.spent((EVIDENCE,)) + taken.seconds * GROWTH > budget:
            return
        else:
            rows *= GROWTH


@dataclass(frozen=True)
class _Trial:
    """Every stage after the training, to be tried on one sample after the other."""

    found: Timings
    model: torch.nn.Module
    method: Method
    recipe: Recipe
    trained: bool
    queries: int
    retrainings: int
    checked: int
    clock: _Clock

    def on(self, sample: Sample) -> None:
        """Each stage of the method once; what takes no time twice."""
        self.clock.start()
        data, n, found = sample.data, sample.rows, self.found
        subject = self.subject(sample)
        fitted, second = self.timed("curvature", n, lambda: _fitted(self.method, subject, self.clock)).result
        found.add("fitted", n, sum(tensor.numel() * tensor.element_size() for tensor in fitted.tensors().values()))
        asked = min(self.queries, found.queries if found.queries > 1 else FEW_QUERIES)
        taken = self.timed("scores", n, lambda: _scores(fitted, second, data, n, asked))
        if "scores" in found.first and found.queries == 1:
            found.queries, block, few = asked, min(self.queries, BLOCK), max(1, asked // 4)
            fewer = _noted(found, "scores", lambda: _scores(fitted, second, data, n, few))
            each = max(0.0, taken.computed - fewer.computed) / max(1, asked - few)  # the rest is by the call
            if block > asked and taken.computed + each * (block - asked) < PATIENCE:
                found.queries = block
                found.points["scores"].pop()
                self.timed("scores", n, lambda: _scores(fitted, second, data, n, found.queries))
        self.compared(fitted, data, n)
        found.dampings = len(dampings(fitted)) if isinstance(fitted, Redampable) else 0
        solves, all_ = _solves(fitted), resamples(fitted)
        directions = all_ if "scores" in found.first and not solves else WARMING_DIRECTIONS
        self.timed("memorization", n, lambda: _memorization(fitted, second, subject, data, directions, self.clock))
        if solves:
            found.directions = all_ - directions
            a_query = found.points["scores"][-1][1] / (asked if found.queries == 1 else found.queries)
            if a_query * n < SOLVED:
                self.timed(SOLUTIONS, n, lambda: fitted.self_influence(self.clock), each=n)
            else:
                found.add(SOLUTIONS, n, a_query)

    def compared(self, fitted: Fitted, data: Dataset, n: int) -> None:
        """One damping held against the retrainings, where the method can change it."""
        if not self.retrainings or not isinstance(fitted, Redampable):
            return
        self.found.candidates = len(evidence.grid(1.0))
        masks = random_masks(n, self.retrainings, KEPT, 0)
        asked = Queries(data.test, np.arange(self.checked, dtype=np.int64) % len(data.test))
        factor = 1 / 3 if _solves(fitted) else 2  # systems take the longer the smaller it is: the middle of the grid
        damping = factor * float(fitted.stats["damping"]) + 1e-3  # any other; a larger one is not singular
        self.timed(COMPARED, n, lambda: predicted(fitted.redamped(damping), asked, masks))

    def plain(self, sample: Sample) -> None:
        """The stages that know no method."""
        data, n = sample.data, sample.rows
        subject = make_subject(self.model, data, self.recipe.weight_decay)
        features = self.timed("predictions", n, lambda: _features(subject, data)).result
        self.timed("map", n, lambda: maps.pca(features))
        self.timed("neighbors", n * n, lambda: maps.training_neighbors(features, n, NEIGHBORS))
        if data.task == "classification" and not self.trained:
            self.timed(INPUTS, n * n, lambda: nearest_inputs(data.train, 0))
        if "map" not in self.found.first:
            self.found.warmed((*PLAIN, INPUTS))

    def timed(self, part: str, rows: int, act: Callable[[], Any], each: int = 1) -> _Taken:
        """What `act` returns and takes, its seconds noted as those of one of `each`."""
        taken = _noted(self.found, part, act)
        computed = taken.computed
        if computed < AGAIN:
            computed = min(computed, _noted(self.found, part, act).computed)
        self.found.add(part, rows, computed / each)
        return taken

    def subject(self, sample: Sample) -> Subject:
        """The sample as a subject; for methods that go back through the training, one that was trained on it."""
        data, decay = sample.data, self.recipe.weight_decay
        if self.trained:
            return make_subject(self.model, data, decay)
        epochs = training.resolve_epochs(self.recipe, sample.rows)
        kept = [{name: tensor.clone() for name, tensor in self.model.state_dict().items()}] * (epochs + 1)
        if self.method.name in influence.THROUGH_TRAINING:
            plain = make_subject(self.model, data, decay)
            states = training.train_epochs(
                self.model, plain.objective, data.train, data.test, self.recipe, progress=self.clock
            )
            kept = [kept[0], *(dict(state.parameters) for state, _ in states)]
        return make_subject(self.model, data, decay, Training(self.recipe, epochs, kept.__getitem__))


def _features(subject: Subject, data: Dataset) -> NDArray[np.float32]:
    reader = reader_of(subject)
    sides = (data.train, data.test)
    return np.concatenate([reader.read(side, np.arange(len(side), dtype=np.int64)).features for side in sides])


def _fitted(method: Method, subject: Subject, clock: _Clock) -> tuple[Fitted, Fitted | None]:
    fitted = method.fit(subject, clock)
    return fitted, second_opinion(fitted, subject)


def _scores(fitted: Fitted, second: Fitted | None, data: Dataset, n: int, count: int) -> None:
    """Of that many queries, some of them again where the sample has fewer."""
    rows = np.arange(count, dtype=np.int64) % len(data.test)
    score_block(fitted, second, Queries(data.test, rows), n, 0)


def _memorization(
    fitted: Fitted, second: Fitted | None, subject: Subject, data: Dataset, directions: int, clock: _Clock
) -> None:
    rows = np.arange(len(data.test), dtype=np.int64)
    weights = memorization.bootstrap_weights(directions, len(rows), 0)
    fitted.weighted(Queries(data.test, rows), torch.from_numpy(weights), clock)
    if isinstance(fitted, Redampable):
        grid(fitted, data, clock)
    if not _solves(fitted):
        witness(fitted, second, subject).fitted.self_influence(clock)
    if data.task == "classification":
        class_influence(fitted, data, clock)


def _solves(fitted: Fitted) -> bool:
    """Whether a system is solved for every example asked about: self-influence then goes with the square of the rows."""
    return isinstance(fitted.inner if isinstance(fitted, FittedRelative) else fitted, FittedIterative)


class _Taken(NamedTuple):
    """What was made, in how many seconds of computing while how many passed."""

    result: Any
    computed: float
    seconds: float


def _noted(found: Timings, part: str, act: Callable[[], Any]) -> _Taken:
    """What `act` returns and takes, its clocks noted for a part."""
    began, computing = time.perf_counter(), time.process_time()
    result = act()
    taken = _Taken(result, time.process_time() - computing, time.perf_counter() - began)
    found.passed(part, taken.computed, taken.seconds)
    return taken


class _Clock:
    """A progress callback that ends what goes on for longer than `limit` seconds after its start."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._until = time.monotonic() + self._limit

    def __call__(self, done: int, total: int, note: str) -> None:  # noqa: ARG002 - the signature of progress
        if time.monotonic() > self._until:
            raise TooLongError
