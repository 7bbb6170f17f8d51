"""What does a last layer see, and what pulls on it: features, outputs and loss gradients of every example?

Runs the model forward, nothing else: no backward pass, no curvature, no files. The gradient of an example with
respect to the last layer's weight is the outer product of two rows found here; it is never built.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import TARGETS, Examples, Progress, Queries, Subject, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.influence.blocks import Need, in_blocks, whole
from explorer.influence.layers import PROBED, check_steady
from explorer.influence.linear import outer
from explorer.loading import as_model_input
from explorer.token_models import check_tokens

BATCH = 1024
"""Examples per forward pass."""
ONE_FORWARD = Need("one example's way through the model", remedy="Use smaller inputs or a smaller model.")


@dataclass(frozen=True)
class Head:
    """The final `nn.Linear` of a model, by name; its output is the model's output."""

    name: str
    layer: nn.Linear
    is_whole_model: bool
    tied: tuple[str, ...] = ()
    """Modules that share a weight of the head: what is said of the head holds for it with a copy of its own."""

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor) -> "Head":
        """Find the head by running `inputs` once.

        Raises:
            ModelError: the model's output is not `[batch, outputs]`, or not what an `nn.Linear` of it returned.
        """
        calls: list[tuple[str, nn.Linear, Tensor]] = []
        hooks = [
            module.register_forward_hook(lambda m, _, out, name=name: calls.append((name, m, out)))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            with _inference(model):
                output = model(as_model_input(model, inputs))
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(output, Tensor) or output.dim() != 2:
            found = f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(
                f"Expected the model to return one tensor [batch, outputs]; found {found}. "
                "Wrap the model so that it returns its logits or regression values."
            )
        matches = [(name, layer) for name, layer, out in calls if out is output or _same(out, output)]
        if len(matches) != 1 or sum(layer is matches[0][1] for _, layer, _ in calls) != 1:
            last = type(list(model.modules())[-1]).__name__
            raise ModelError(
                "Expected the model's output to be what its final nn.Linear returns, called once, with nothing after "
                f"it; found {len(matches)} such layers (the last module is {last}). Return the raw logits of the final "
                "layer: no softmax or other function after it."
            )
        name, layer = matches[0]
        own = sum(p.numel() for p in layer.parameters())
        ids = {id(p) for p in layer.parameters()}
        tied = tuple(
            other
            for other, module in model.named_modules()
            if module is not layer and any(id(p) in ids for p in module.parameters(recurse=False))
        )
        return cls(name, layer, not tied and own == sum(p.numel() for p in model.parameters()), tied)

    @property
    def stats(self) -> dict[str, Any]:
        """Which layer it is, for people, and what it shares its weights with where it does."""
        return {"layer": self.name or "the whole model"} | ({"tied": list(self.tied)} if self.tied else {})


@dataclass(frozen=True)
class HeadPass:
    """What the head saw: `features [n, p]` (a last column of ones stands for the bias) and raw `outputs [n, k]`."""

    features: Tensor
    outputs: Tensor


def head_pass(
    subject: Subject, head: Head, examples: Examples, rows: NDArray[np.int64], progress: Progress = silent
) -> HeadPass:
    """Run the model over `rows`; float32 features unless the model is wider, outputs in float64, both on the CPU.

    Raises:
        ModelError: a feature or output is not finite.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def run(part: slice) -> HeadPass:
        block = rows[part]
        progress(part.start, len(rows), "features")
        seen.clear()
        output = subject.model(as_model_input(subject.model, examples.batch(block)))
        feature, raw = seen[0]
        if raw is not output and bool(torch.isfinite(output).all()) and not _same(raw, output):
            raise ModelError(
                f"Expected the model's output to be what its final nn.Linear returns; found it changed after "
                f"{head.name or 'that layer'} for some of rows {block[0]}..{block[-1]}. Return the raw outputs "
                "of the final layer: no function after it."
            )
        return HeadPass(feature.detach().cpu(), output.detach().double().cpu())

    hook = head.layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    try:
        with _inference(subject.model):
            parts = [found for _, found in in_blocks(len(rows), BATCH, run, ONE_FORWARD)]
    finally:
        hook.remove()
        seen.clear()
    progress(len(rows), len(rows), "features")
    found = HeadPass(torch.cat([part.features for part in parts]), torch.cat([part.outputs for part in parts]))
    for name, values in (("features", found.features), ("outputs", found.outputs)):
        bad = (~torch.isfinite(values)).any(1)
        if bad.any():
            first = str(examples.ids[rows[int(bad.nonzero()[0, 0])]])
            raise ModelError(
                f"Expected finite {name} from the model; found NaN or infinity for {int(bad.sum())} of {len(rows)} "
                f"examples (first: {first!r}). Check the weights and the scale of the inputs."
            )
    if head.layer.bias is None:
        return found
    ones = found.features.new_ones(len(rows), 1)
    return HeadPass(torch.cat([found.features, ones], 1), found.outputs)


def targets_of(examples: Examples, rows: NDArray[np.int64], outputs: int) -> Tensor:
    """Labels of `rows` as the objective wants them: int64 class numbers below `outputs`, or float64 values.

    Those of sequences are int64 `[b, T]`, tokens as `token_models.TokenModel` counts its `outputs`.
    """
    labels: NDArray[Any] = np.asarray(examples.labels)[rows]
    if labels.ndim == 2:
        check_tokens(labels, outputs)
        return torch.from_numpy(labels.astype(np.int64))
    if np.issubdtype(labels.dtype, np.integer):
        if len(labels) and (labels.min() < 0 or labels.max() >= outputs):
            raise DataError(
                f"Expected labels 0..{outputs - 1} for a model with {outputs} outputs; found {labels.min()}.."
                f"{labels.max()}. Use the model that was trained on these classes, or mend the labels."
            )
        return torch.from_numpy(labels.astype(np.int64))
    if outputs != 1:
        raise ModelError(
            f"Expected one output for real-valued targets; found {outputs}. Use a model with a single regression "
            "output, or integer labels for classification."
        )
    return torch.from_numpy(labels.astype(np.float64))


def asked_of(queries: Queries, outputs: int) -> Tensor:
    """What the objective's `measure` takes as targets: labels `[q]`, or the classes asked about, `[q]` or `[q, 2]`.

    Raises:
        SettingsError: the model has no such class, or no classes at all.
    """
    if queries.target not in TARGETS and outputs < 2:
        raise SettingsError(
            f"Expected a model with two or more classes for a {queries.target}; found {outputs} output. Ask about the "
            "label or the prediction."
        )
    if queries.classes is None:
        return targets_of(queries.examples, queries.rows, outputs)
    wrong = queries.classes[(queries.classes < 0) | (queries.classes >= outputs)]
    if wrong.size:
        raise SettingsError(
            f"Expected classes in 0..{outputs - 1} for the {queries.target} of a model with {outputs} outputs; found "
            f"{int(wrong[0])}. Choose another class."
        )
    return torch.from_numpy(queries.classes.astype(np.int64))


@dataclass(frozen=True)
class TrainPass:
    """The training set as a head method needs it: `features [n, p]`, loss gradients `errors [n, k]`, `outputs`."""

    head: Head
    features: Tensor
    errors: Tensor
    outputs: Tensor


def train_pass(subject: Subject, progress: Progress = silent) -> TrainPass:
    """Find the head and run the whole training set through the model once."""
    rows = np.arange(len(subject.train), dtype=np.int64)
    few = subject.train.batch(rows[:PROBED])
    check_steady(subject.model, few)
    head = Head.of(subject.model, few)
    seen = head_pass(subject, head, subject.train, rows, progress)
    targets = targets_of(subject.train, rows, seen.outputs.shape[1])
    errors = subject.objective.loss_gradient(seen.outputs, targets).to(seen.features.dtype)
    return TrainPass(head, seen.features, errors, seen.outputs)


def query_pass(subject: Subject, queries: Queries) -> tuple[Float[Tensor, "query p"], Float[Tensor, "query k"]]:
    """Features and measure gradients of the queries, both float64; ∇m_q is their outer product (k by p)."""
    if not len(queries.rows):
        raise DataError("Expected at least one query; found none. Name the test rows to explain.")
    head = whole(1, lambda few: Head.of(subject.model, queries.examples.batch(queries.rows[:few])), ONE_FORWARD)
    seen = head_pass(subject, head, queries.examples, queries.rows)
    targets = asked_of(queries, seen.outputs.shape[1])
    pulls = subject.objective.measure_gradient(seen.outputs, targets, queries.target)
    return seen.features.double(), pulls


def weighted_gradients(subject: Subject, queries: Queries, weights: Float[Tensor, "w query"]) -> Float[Tensor, "w kp"]:
    """Σ_q weights[w, q] ∇m_q in float64, in blocks of queries: memory does not grow with their number."""
    total: Tensor | None = None
    for start in range(0, len(queries.rows), BATCH):
        features, pulls = query_pass(subject, queries.block(slice(start, start + BATCH)))
        part = weights[:, start : start + BATCH].double() @ outer(pulls, features)
        total = part if total is None else total + part
    if total is None:
        raise DataError("Expected at least one query; found none. Name the test rows to explain.")
    return total


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


class _inference:  # noqa: N801 - reads as a phrase where it is used
    """Evaluation mode without gradients; every module's own training flag is put back on exit."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self._flags = {module: module.training for module in self._model.modules()}
        self._model.eval()
        self._no_grad.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._no_grad.__exit__(*exc)
        for module, flag in self._flags.items():
            module.training = flag
