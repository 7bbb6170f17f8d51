"""How does a model come out of its examples, and what did each example go through on the way?

The only training loop: seeded, resumable per epoch, on any subset of rows, with a log of every example. It knows
no files, no influence method and no threads; who calls it saves what it yields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Examples, Objective, Progress, Recipe, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.loading import apply_weights
from explorer.readings import CLOSE_ENOUGH, block_of, read

Array32 = NDArray[np.float32]
T = TypeVar("T")

EXAMPLES_SEEN = 300_000
FEWEST_EPOCHS, MOST_EPOCHS = 5, 30
"""Without a number of epochs, training shows about `EXAMPLES_SEEN` examples, within these bounds."""

EVALUATION_BATCH = 500
"""Examples per forward pass outside training: faster than 2,000 on a CPU, whose caches the activations fit."""

CHECKED_BATCHES, CHECKED_ROWS = 4, 64
"""How much `check_two_passes` reads, twice."""


@dataclass(frozen=True)
class EpochState:
    """Where training stands after `epoch` epochs (1 = after the first): enough to go on with identical bytes.

    `parameters` is the model's state dict (parameters and buffers), `momentum` the velocity of each trained
    parameter; all are copies on the CPU.
    """

    epoch: int
    parameters: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Everything as one flat dict, ready for a safetensors file."""
        flat = {f"parameters/{name}": tensor for name, tensor in self.parameters.items()}
        flat |= {f"momentum/{name}": tensor for name, tensor in self.momentum.items()}
        return flat | {"epoch": torch.tensor(self.epoch)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> EpochState:
        """The state whose `tensors()` these are."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        return EpochState(int(tensors["epoch"]), part("parameters/"), part("momentum/"))


@dataclass(frozen=True)
class EpochLog:
    """What the model thought of every example at the end of `epoch`, in evaluation mode.

    All are `[n]` in the order of the trained rows, but `measure` `[n_test]`.
    They are those of `readings.Reading`; a regression is correct within half a standard deviation of all training
    targets. `measure` is the objective's measure of the given label. The four numbers are means over the trained rows and
    over the held-out examples.
    """

    epoch: int
    loss: Array32
    confidence: Array32
    correct: NDArray[np.bool_]
    max_probability: Array32
    entropy: Array32
    el2n: Array32
    measure: Array32
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


def resolve_epochs(recipe: Recipe, n: int) -> int:
    """How many epochs the recipe means for `n` training rows: 30 up to 10,000 rows falling as 1/n to 5 from 60,000."""
    if recipe.epochs is not None:
        return recipe.epochs
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(EXAMPLES_SEEN / max(n, 1))))


def epoch_batches(n: int, recipe: Recipe, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch (1 = the first) over `n` examples, fixed by the recipe's seed and `epoch` alone."""
    order = np.random.default_rng([recipe.seed, epoch]).permutation(n)
    return [order[start : start + recipe.batch_size] for start in range(0, n, recipe.batch_size)]


def rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step 0, 1, ... of `steps`: half a cosine from `recipe.rate` down towards zero."""
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_epochs(
    model: nn.Module,
    objective: Objective,
    train: Examples,
    test: Examples,
    recipe: Recipe,
    *,
    rows: NDArray[np.int64] | None = None,
    resume: EpochState | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[EpochState, EpochLog]]:
    """Trains `model` in place and yields its state and log after each epoch.

    SGD with momentum on the mean loss of a batch, weight decay on all parameters. Batches and rates are those of
    the whole training set; examples outside `rows` are left out of them (an emptied batch is no step), so removing
    an example changes nothing else. `resume` goes on after that epoch, whatever weights the model has: the bytes are
    those of an uninterrupted training on the same machine with as many threads. `progress` counts examples over all
    epochs; when it or anything else raises, the model gets back the weights of the last finished epoch. Between
    epochs and afterwards it is in evaluation mode without gradients. Raises `ModelError` where training diverges,
    `SettingsError` and `DataError` for a state or rows that do not fit.
    """
    rows = _checked_rows(rows, len(train))
    epochs = resolve_epochs(recipe, len(train))
    if resume is not None and not 0 <= resume.epoch <= epochs:
        raise SettingsError(
            f"Expected to resume within {epochs} epochs; found a state after epoch {resume.epoch}. "
            "Resume with the recipe that the state was trained with."
        )
    loop = _Loop(model, objective, train, test, recipe, rows, epochs, progress)
    state = EpochState(0, _copied(model.state_dict()), {}) if resume is None else resume
    loop.optimizer(state)  # a resumed state that does not fit is refused before the first step
    for epoch in range(state.epoch + 1, epochs + 1):
        state, log = loop.epoch(state, epoch)
        yield state, log


def evaluate(
    model: nn.Module,
    examples: Examples,
    rows: NDArray[np.int64] | None = None,
    batch: int = EVALUATION_BATCH,
    progress: Progress = silent,
) -> Tensor:
    """The model's outputs `[n, k]` for `rows` (all by default), in evaluation mode, without gradients.

    The mode of every module is put back. `progress` counts the rows.
    """
    return torch.cat(evaluated(model, examples, lambda outputs, _: outputs, rows, batch, progress))


def evaluated(
    model: nn.Module,
    examples: Examples,
    seen: Callable[[Tensor, NDArray[np.int64]], T],
    rows: NDArray[np.int64] | None = None,
    batch: int = EVALUATION_BATCH,
    progress: Progress = silent,
) -> list[T]:
    """`seen(outputs, rows)` of one batch after the other, as `evaluate` runs them: nothing else is kept of the outputs."""
    rows = np.arange(len(examples), dtype=np.int64) if rows is None else rows
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            found = []
            for start in range(0, max(len(rows), 1), batch):
                progress(start, len(rows), "evaluating")
                block = rows[start : start + batch]
                found.append(seen(model(examples.batch(block)), block))
            return found
    finally:
        for module, mode in modes:
            module.training = mode


def check_two_passes(examples: Examples) -> None:
    """Proves on a few batches, read forwards and then backwards, that the examples stay the same.

    Raises `DataError` where the two passes differ (shuffling or augmentation in a source), where a batch is not one
    finite row per example, or where ids repeat.
    """
    n = len(examples)
    if len(np.unique(examples.ids)) != n or len(examples.labels) != n:
        raise DataError(
            f"Expected {n} unique ids and {n} labels; found {len(np.unique(examples.ids))} and {len(examples.labels)}. "
            "Give every example an id and a label of its own."
        )
    starts = np.unique(np.linspace(0, max(n - CHECKED_ROWS, 0), CHECKED_BATCHES).astype(np.int64))
    parts = [np.arange(start, min(start + CHECKED_ROWS, n)) for start in starts]
    passes = [examples.batch(part) for part in parts], [examples.batch(part) for part in reversed(parts)][::-1]
    for part, first, second in zip(parts, *passes, strict=True):
        if len(first) != len(part) or not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise DataError(
                f"Expected two passes over the examples to agree; found different inputs in rows {part[0]} to "
                f"{part[-1]}. Take shuffling, augmentation or other randomness out of the source."
            )
        bad = ~first.reshape(len(part), -1).isfinite().all(1).numpy()
        if bad.any():
            example = str(examples.ids[part][bad][0])
            raise DataError(f"Expected finite inputs; found NaN or infinity in {example!r}. Mend or drop that example.")


@dataclass(frozen=True)
class _Loop:
    """Everything that stays the same between epochs."""

    model: nn.Module
    objective: Objective
    train: Examples
    test: Examples
    recipe: Recipe
    rows: NDArray[np.int64]
    epochs: int
    progress: Progress

    def epoch(self, state: EpochState, epoch: int) -> tuple[EpochState, EpochLog]:
        """One epoch from `state`, and from nothing else that the model or an optimizer might remember."""
        with _repeatable(self.recipe.seed, epoch):
            optimizer = self.optimizer(state)
            try:
                self.steps(optimizer, epoch)
                log = self.log(epoch)
            except BaseException:
                apply_weights(self.model, state.parameters)
                raise
            finally:
                self.model.zero_grad(set_to_none=True)
                self.model.eval()
        return EpochState(epoch, _copied(self.model.state_dict()), self.momentum(optimizer)), log

    def optimizer(self, state: EpochState) -> torch.optim.SGD:
        """An optimizer as it was at `state`, and the model's weights with it."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        misfits = [name for name, v in state.momentum.items() if name not in trained or v.shape != trained[name].shape]
        if misfits or not trained:
            found = f"momentum for {misfits[0]!r}, which it lacks in that shape" if misfits else "no parameter to train"
            raise ModelError(
                f"Expected a model with trainable parameters that fit the state; found {found}. "
                "Resume with the model that the state was trained with, and set requires_grad on what is to be trained."
            )
        apply_weights(self.model, state.parameters)
        settings = self.recipe
        optimizer = torch.optim.SGD(
            trained.values(), lr=settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        for name, velocity in state.momentum.items():
            optimizer.state[trained[name]]["momentum_buffer"] = velocity.clone()
        return optimizer

    def momentum(self, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
        """The velocity of each parameter that has one (none without momentum)."""
        buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in self.model.named_parameters()}
        return _copied({name: buffer for name, buffer in buffers.items() if buffer is not None})

    def steps(self, optimizer: torch.optim.SGD, epoch: int) -> None:
        """Every batch of the epoch once, less the examples that are not trained on."""
        self.model.train()
        targets = torch.tensor(self.train.labels)
        trained = np.zeros(len(self.train), dtype=bool)
        trained[self.rows] = True
        batches = epoch_batches(len(self.train), self.recipe, epoch)
        done, total = (epoch - 1) * len(self.rows), self.epochs * len(self.rows)
        for number, batch in enumerate(batches, start=(epoch - 1) * len(batches)):
            self.progress(done, total, f"epoch {epoch} of {self.epochs}")
            kept = batch[trained[batch]]
            if len(kept) == 0:
                continue
            rate = rate_at(self.recipe, number, self.epochs * len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = self.objective.loss(self.model(self.train.batch(kept)), targets[kept]).mean()
            self.check_finite(loss, epoch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += len(kept)

    def log(self, epoch: int) -> EpochLog:
        """What the model makes of all examples now."""
        done, total = epoch * len(self.rows), self.epochs * len(self.rows)

        def still(_done: int, _total: int, note: str) -> None:
            self.progress(done, total, f"epoch {epoch} of {self.epochs}, {note}")

        close = CLOSE_ENOUGH * float(np.std(self.train.labels, dtype=np.float64))
        learned = self.readings(self.train, self.rows, close, still)
        loss = learned["loss"]
        self.check_finite(loss, epoch)
        held_out = self.readings(self.test, np.arange(len(self.test), dtype=np.int64), close, still)
        return EpochLog(
            epoch=epoch,
            loss=loss.numpy(),
            confidence=learned["confidence"].numpy(),
            correct=learned["correct"].numpy(),
            max_probability=learned["max_probability"].numpy(),
            entropy=learned["entropy"].numpy(),
            el2n=learned["el2n"].numpy(),
            measure=held_out["measure"].numpy(),
            train_loss=float(loss.mean()),
            train_accuracy=float(learned["correct"].double().mean()),
            test_loss=float(held_out["loss"].mean()),
            test_accuracy=float(held_out["correct"].double().mean()),
        )

    def readings(
        self, examples: Examples, rows: NDArray[np.int64], close: float, progress: Progress
    ) -> dict[str, Tensor]:
        """What is read off the outputs for `rows`, `[n]` each, by the names of `Reading`."""

        def seen(outputs: Tensor, block: NDArray[np.int64]) -> dict[str, Tensor]:
            return vars(read(self.objective, outputs, torch.tensor(examples.labels[block]), close))

        step = block_of(self.objective, examples, EVALUATION_BATCH)
        parts = evaluated(self.model, examples, seen, rows, step, progress)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def check_finite(self, loss: Tensor, epoch: int) -> None:
        """Raises `ModelError` unless every loss is finite."""
        if not bool(loss.isfinite().all()):
            worst = float(loss.detach()[~loss.isfinite()].flatten()[0])
            raise ModelError(
                f"Expected finite training losses; found {worst} in epoch {epoch} with a rate of {self.recipe.rate:g}. "
                f"Try a rate of {self.recipe.rate / 10:g}, and bring inputs to about zero mean and unit deviation."
            )


@contextmanager
def _repeatable(seed: int, epoch: int) -> Iterator[None]:
    """Randomness fixed by seed and epoch and deterministic kernels, both put back; never held across a yield."""
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its one attribute is a property of the module, unknown to type checkers
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        try:
            torch.use_deterministic_algorithms(True)
            memory.fill_uninitialized_memory = False  # costs time and guards nothing here
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=warned)
            memory.fill_uninitialized_memory = filled


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def _checked_rows(rows: NDArray[np.int64] | None, n: int) -> NDArray[np.int64]:
    rows = np.arange(n, dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    unique = np.unique(rows)
    if rows.ndim != 1 or len(rows) == 0 or len(unique) != len(rows) or unique[0] < 0 or unique[-1] >= n:
        span = (
            f"{len(rows)} rows from {unique[0]} to {unique[-1]}, {len(unique)} of them distinct"
            if rows.size
            else "none"
        )
        raise DataError(
            f"Expected at least one training row, each once, from 0 to {n - 1}; found {span}. "
            "Train on a list of distinct rows of the training set."
        )
    return rows
