"""Which training examples moved this prediction? Ask the half of a network that never saw an example.

Turn-over dropout: every training example has a fixed half of the units that it trains, so the other half answers as if
it had been left out. It needs a training of its own and a forward pass a pair: for small networks only.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Examples, Progress, Queries, Recipe, Scores, Subject, Target, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.influence import kronecker
from explorer.influence.backward import check_finite
from explorer.influence.blocks import Need, in_blocks, says_what_fits
from explorer.influence.gradients import asked_of, targets_of
from explorer.influence.layers import Layer, check_outputs, evaluation, on_call
from explorer.influence.tracin import at_weights
from explorer.loading import as_model_input
from explorer.training import epoch_batches, evaluate, rate_at, resolve_epochs

PIECE = 4096
"""Examples whose masks come from one seed: any block of them can be drawn again alone."""
PAIRS = 4096
"""Pairs of a query and a training example in one forward pass at most."""
NEED = Need("two passes over one example", remedy="Choose another method, such as last-layer, or a smaller model.")
ELEMENTS = 2**22
"""Numbers in the inputs of one forward pass at most (16 MB in float32)."""


@dataclass(frozen=True)
class TurnoverDropout:
    """s(q, i) = m_q(network under the mask of i) − m_q(network under its flip) (Kobayashi et al. 2020; positive = helpful).

    Each example has one fixed mask, drawn once from `seed` as fair bits: which outputs of the masked layers it trains
    (features of a linear layer, channels of a convolution), doubled in size. The flip is the rest, which example i never
    reached. `layers` are masked; by default all handled ones but the last called. Where such a layer feeds
    relu, gelu or tanh, masking it before or after is the same. Two halves of a network differ by
    themselves too, so scores are noisy and only ranks compare.
    """

    layers: Sequence[str] | None = None
    seed: int = 0
    name: ClassVar[str] = "turnover-dropout"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"Expected seed in 0..2^32 - 1; found {self.seed!r}. Choose another seed.")
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> FittedTurnoverDropout:
        """Trains a network like the subject's under the masks, from its first weights and by its own recipe.

        Scores explain that network, a sibling of the subject's; `stats["agreement"]` is the share of training examples on which
        both answer alike, or the correlation of a regression's answers.

        Raises:
            ModelError: the subject was trained elsewhere. What `train` raises.
        """
        told = subject.training
        if told is None:
            raise ModelError(
                "Expected a model whose training is known, to train one like it under masks; found weights from "
                "elsewhere. Let explorer train the model, or use TurnoverDropout.train from Python."
            )
        fitted = self.train(at_weights(subject, told.weights(0)), told.recipe, progress)
        stats = {**fitted.stats, "agreement": _agreement(subject, fitted.subject)}
        return replace(fitted, stats=stats)

    def train(self, subject: Subject, recipe: Recipe, progress: Progress = silent) -> FittedTurnoverDropout:
        """Trains a copy of the subject's model from the weights it has, every example under its own mask.

        Batches, rates and SGD are those of `training.train_epochs`, in evaluation mode (other dropout is off, batch norm
        frozen). `subject.model` is the network before training and stays as it was; the result's subject is the trained one.

        Raises:
            ModelError: no layer can be masked, or training diverges.
        """
        began = time.perf_counter()
        model = copy.deepcopy(subject.model)
        own = replace(subject, model=model, weight_decay=recipe.weight_decay)
        masked, left_out = self._masked(own)
        bits = draw_bits(len(subject.train), sum(width for _, width in masked), self.seed)
        try:
            outputs = _train(own, masked, bits, recipe, progress)
        finally:
            model.zero_grad(set_to_none=True)
        stats = {
            "layers": [name for name, _ in masked],
            "left_out": left_out,
            "units": [width for _, width in masked],
            "epochs": resolve_epochs(recipe, len(subject.train)),
            "recipe": asdict(recipe),
            "outputs": outputs,
            "seconds": time.perf_counter() - began,
        }
        return FittedTurnoverDropout(own, bits, stats)

    def restore(
        self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> FittedTurnoverDropout:
        """The fitted method from `tensors()` and `stats`; `subject` may have any weights, the trained ones are saved."""
        prefix = "weights/"
        weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        own = replace(at_weights(subject, weights), weight_decay=stats["recipe"]["weight_decay"])
        return FittedTurnoverDropout(own, tensors["bits"], dict(stats))

    def _masked(self, subject: Subject) -> tuple[list[tuple[str, int]], dict[str, str]]:
        """The layers to mask with their widths, and why the others are not."""
        every = kronecker.find(subject, self.layers)
        found, left_out = every.layers, dict(every.left_out)
        if self.layers is None:
            last = _last_called(subject, found)
            found = tuple(layer for layer in found if layer.name != last)
            left_out[last] = "the last layer is not masked"
        if not found:
            raise ModelError(
                "Expected a layer below the last one, whose outputs can be masked; found a model of one layer. Use "
                "another method: for a linear model last-layer is exact."
            )
        return [(layer.name, layer.width_out) for layer in found], left_out


def draw_bits(n: int, units: int, seed: int) -> Tensor:
    """Fair bits `[n, units]`, packed eight to a byte, uint8 `[n, ceil(units / 8)]`.

    Row i depends on `seed`, `units` and i alone: rows come in pieces of `PIECE`, each from a generator of its own.
    """
    width = -(-units // 8)
    pieces = [
        np.random.default_rng([seed, units, piece]).integers(0, 256, (PIECE, width), dtype=np.uint8)
        for piece in range(-(-n // PIECE))
    ]
    drawn = np.concatenate(pieces)[:n] if pieces else np.zeros((0, width), dtype=np.uint8)
    return torch.from_numpy(np.ascontiguousarray(drawn))


def unpacked(bits: Tensor, units: int) -> Tensor:
    """Masks as bool `[b, units]` from packed bits `[b, ceil(units / 8)]`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=units)).bool()


@contextmanager
def masking(model: nn.Module, masked: Sequence[tuple[str, int]]) -> Iterator[Callable[[Tensor], None]]:
    """Yields a function that sets the masks `[b, units]` of the next forward passes over b examples, layer after layer.

    Outputs are multiplied by 2 where the mask is set and by 0 elsewhere. The hooks are gone when the block ends.
    """
    held: list[Tensor] = []

    def hook(module: nn.Module, _: Any, out: Tensor, part: slice) -> Tensor:
        mask = 2 * held[0][:, part].to(out)
        if len(out) != len(mask):
            raise ModelError(
                f"Expected a masked layer to return one row for each of {len(mask)} examples; found {len(out)}. Mask other "
                "layers."
            )
        places = [1] * (out.dim() - 2)
        shape = (*places, mask.shape[1]) if isinstance(module, nn.Linear) else (mask.shape[1], *places)
        return out * mask.reshape(len(mask), *shape)

    start, handles = 0, []
    for name, width in masked:
        module = model.get_submodule(name)
        handles.append(module.register_forward_hook(partial(hook, part=slice(start, start + width))))
        start += width

    def use(masks: Tensor) -> None:
        held[:] = [masks]

    try:
        yield use
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class FittedTurnoverDropout:
    """A network trained under masks, and every example's mask as packed `bits [n, bytes]`."""

    subject: Subject
    bits: Tensor
    stats: Mapping[str, Any]
    unit: str = "difference of two half networks (only ranks compare)"

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; cost two forward passes a pair."""
        n = len(self.subject.train)
        values = torch.empty(len(queries.rows), n) if out is None else out
        for q, (inputs, target, asked) in enumerate(self._asked(queries)):

            def work(part: slice, q: int = q, one: Tensor = inputs, of: Tensor = target, asked: Target = asked) -> None:
                progress(q * n + part.start, len(values) * n, "scores")
                masks = self._masks(part)
                several, same = (t.expand(len(masks), *t.shape[1:]) for t in (one, of))
                rows = np.full(len(masks), queries.rows[q])
                values[q, part] = self._differences(several, same, masks, asked, rows, queries.examples).float()

            for _ in in_blocks(n, self._step(inputs.numel()), work, NEED):
                pass
        progress(len(values) * n, len(values) * n, "scores")
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            TurnoverDropout.name,
            queries.target,
            self.unit,
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`; each query costs what its scores cost."""
        total = torch.zeros(len(weights), len(self.subject.train), dtype=torch.float64)
        _check(queries)
        for q in range(len(queries.rows)):

            def told(done: int, of: int, note: str, q: int = q) -> None:
                progress(q * of + done, len(queries.rows) * of, note)

            scores = self.score(queries.block(slice(q, q + 1)), told).values[0]
            total += torch.outer(weights[:, q].double(), scores.double())
        return total.float()

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """The score of each example asked about itself, float32 `[train]`; what is negative (noise) is given as 0."""
        train = self.subject.train
        n = len(train)
        values = torch.empty(n)

        def work(part: slice) -> None:
            progress(part.start, n, "self-influence")
            rows = np.arange(part.start, part.stop, dtype=np.int64)
            inputs = as_model_input(self.subject.model, train.batch(rows))
            targets = targets_of(train, rows, self.stats["outputs"])
            found = self._differences(inputs, targets, self._masks(part), "label", rows, train)
            values[part] = found.clamp_min(0).float()

        for _ in in_blocks(n, self._step(train.batch(np.arange(min(1, n))).numel()), work, NEED):
            pass
        progress(n, n, "self-influence")
        return values

    def tensors(self) -> dict[str, Tensor]:
        """`bits`, and the trained network as "weights/name"."""
        state = self.subject.model.state_dict()
        return {"bits": self.bits} | {f"weights/{name}": t.detach().cpu().clone() for name, t in state.items()}

    def _asked(self, queries: Queries) -> Iterator[tuple[Tensor, Tensor, Target]]:
        """For each query its input `[1, ...]`, what is asked about `[1, ...]` and how it is measured.

        A class that the network answers is that of the whole network, under no mask.
        """
        _check(queries)
        subject = self.subject
        for q in range(len(queries.rows)):
            one = queries.block(slice(q, q + 1))
            inputs = as_model_input(subject.model, queries.examples.batch(one.rows))
            target = asked_of(one, self.stats["outputs"])
            if queries.target != "prediction" or subject.objective.task == "regression":
                yield inputs, target, queries.target
                continue
            with evaluation(subject.model), torch.no_grad():
                yield inputs, subject.objective.predict(check_outputs(subject.model(inputs), 1)).cpu(), "label"

    def _step(self, size: int) -> int:
        """How many inputs of `size` numbers may go through at once."""
        return max(1, min(PAIRS, ELEMENTS // max(size, 1)))

    def _masks(self, part: slice) -> Tensor:
        """Masks of some training examples."""
        return unpacked(self.bits[part], sum(self.stats["units"]))

    def _differences(
        self, inputs: Tensor, targets: Tensor, masks: Tensor, asked: Target, rows: NDArray[np.int64], of: Examples
    ) -> Tensor:
        """The measure under each mask less that under its flip, float64 `[b]`; the inputs are `rows` of examples."""
        subject = self.subject
        masked = list(zip(self.stats["layers"], self.stats["units"], strict=True))
        found = []
        with masking(subject.model, masked) as use, evaluation(subject.model), torch.no_grad():
            for half in (masks, ~masks):
                use(half)
                outputs = check_outputs(subject.model(inputs), len(inputs)).double().cpu()
                check_finite(outputs, rows, len(of), "outputs", of)
                found.append(subject.objective.measure(outputs, targets, asked))
        return found[0] - found[1]


def _train(
    subject: Subject, masked: Sequence[tuple[str, int]], bits: Tensor, recipe: Recipe, progress: Progress
) -> int:
    """SGD on the subject's own model, each example under its mask; returns the number of outputs."""
    model, n, outputs = subject.model, len(subject.train), torch.empty(0, 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, recipe.rate, recipe.momentum, weight_decay=recipe.weight_decay)
    epochs, units = resolve_epochs(recipe, n), sum(width for _, width in masked)
    for epoch in range(1, epochs + 1):
        batches = epoch_batches(n, recipe, epoch)
        for number, batch in enumerate(batches, start=(epoch - 1) * len(batches)):
            progress(number, epochs * len(batches), f"epoch {epoch} of {epochs}")
            optimizer.param_groups[0]["lr"] = rate_at(recipe, number, epochs * len(batches))
            optimizer.zero_grad()
            with masking(model, masked) as use, evaluation(model), torch.enable_grad():
                use(unpacked(bits[torch.from_numpy(batch)], units))
                inputs = as_model_input(model, subject.train.batch(batch))
                outputs = check_outputs(model(inputs), len(batch))
                targets = targets_of(subject.train, batch, outputs.shape[1]).to(outputs.device)
                losses = subject.objective.loss(outputs, targets)
                losses.mean().backward(retain_graph=True)  # type: ignore[no-untyped-call]
                if not all(bool(p.grad.isfinite().all()) for p in trained if p.grad is not None):
                    check_finite(inputs.float().flatten(1), batch, n, "inputs", subject.train)
                    _blame(losses, trained, batch, subject.train)
                    raise ModelError(
                        f"Expected finite training losses; found {float(losses.detach().mean())} in epoch {epoch} with a rate of "
                        f"{recipe.rate:g}. Try a rate of {recipe.rate / 10:g}."
                    )
            optimizer.step()
    progress(1, 1, "trained")
    return outputs.shape[1]


def _blame(losses: Tensor, trained: Sequence[nn.Parameter], batch: NDArray[np.int64], examples: Examples) -> None:
    """Raises `ModelError` with the first example of a batch whose own gradient is not finite, where all losses are; else nothing."""
    if bool(losses.isfinite().all()):
        for row, loss in zip(batch, losses, strict=True):
            own = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
            flat = torch.cat([g.flatten() for g in own if g is not None])
            check_finite(flat.unsqueeze(0), np.array([row]), len(examples), "gradients", examples)


def _agreement(one: Subject, other: Subject) -> float | None:
    """How far two networks answer alike over the training examples; None where a regression always says the same."""
    answers = []
    for subject in (one, other):

        def said(part: slice, subject: Subject = subject) -> Tensor:
            return evaluate(subject.model, subject.train, np.arange(part.start, part.stop, dtype=np.int64))

        outputs = torch.cat([found for _, found in in_blocks(len(subject.train), PAIRS, said, NEED)])
        answers.append(subject.objective.predict(outputs).double().cpu().numpy())
    if one.objective.task == "classification":
        return float((answers[0] == answers[1]).mean())
    if min(np.ptp(answer) for answer in answers) == 0:
        return None
    return float(np.corrcoef(answers[0], answers[1])[0, 1])


def _last_called(subject: Subject, found: Sequence[Layer]) -> str:
    """The name of the layer that runs last, which need not be the one that the model names last."""
    order: list[str] = []
    handles = [on_call(layer.module, lambda *_, name=layer.name: order.append(name)) for layer in found]
    try:
        with evaluation(subject.model), torch.no_grad():
            subject.model(as_model_input(subject.model, subject.train.batch(np.arange(1))))
    finally:
        for handle in handles:
            handle.remove()
    return order[-1]


def _check(queries: Queries) -> None:
    if not len(queries.rows):
        raise DataError("Expected at least one query; found none. Name the test rows to explain.")
