"""The nouns and protocols that everything flows through: examples, subject, method, scores, spec, progress.

Holds no behavior beyond checking its own fields, imports nothing heavy, and knows no files or widgets.
The sign convention of the whole project is stated at `Scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from explorer.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT_VERSION = 1
"""Version of the run directory's layout; a reader refuses any other."""

Task = Literal["classification", "regression", "sequence"]
"""What data sets, and so runs, are for."""
ObjectiveTask = Literal["classification", "regression", "sequence"]
"""What models are explained for: a `sequence` has a class (token) for each of its positions."""
Target = Literal["label", "prediction", "margin", "contrast"]
"""What a query asks about: `label` explains the given label, `prediction` the model's own answer, `margin` a class against
all others, `contrast` a class P against a class Q: "why P rather than Q?"."""
MEASURE_UNIT = "unit of the measure"
"""What a fitted method says whose scores estimate the change of the measure itself (nats, squared error, ...)."""
TARGETS: tuple[Target, ...] = ("label", "prediction")
"""Targets whose answers a run stores."""
ASKABLE: tuple[Target, ...] = (*TARGETS, "margin", "contrast")
"""All targets: what a run does not store is answered by its fitted method when it is asked."""
Layout = Literal["pca", "umap"]
LAYOUTS: tuple[Layout, ...] = ("pca", "umap")
"""Maps of the features: PCA at once, UMAP when ready."""

Progress = Callable[[int, int, str], None]
"""`progress(done, total, note)`: the only way the core speaks. It may raise `Cancelled` to stop the work."""


def silent(done: int, total: int, note: str) -> None:
    """A progress callback for callers that do not want to hear."""


@dataclass(frozen=True)
class ImagePreview:
    """A picture of one example: uint8 `[height, width]` (gray) or `[height, width, 3]` (RGB)."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class TablePreview:
    """One example as a row of named values, in the units of the source.

    `unusual` has, for each value, its distance from the training mean in training standard deviations (signed;
    0 for a constant column): pages show the most unusual values first.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    unusual: NDArray[np.float32]


@dataclass(frozen=True)
class TextPreview:
    """One example as text: the `prompt` before the first asked token (may be empty), and the `continuation` it asks."""

    prompt: str
    continuation: str


Preview = ImagePreview | TablePreview | TextPreview


@runtime_checkable
class Examples(Protocol):
    """Finite, ordered, re-iterable examples. Two passes must agree: no shuffling, augmentation or dropout inside."""

    @property
    def key(self) -> str:
        """Hash of the content (inputs, targets, ids): equal keys mean equal examples."""

    @property
    def ids(self) -> NDArray[np.str_]:
        """One unique id per row, `[n]`."""

    @property
    def labels(self) -> NDArray[Any]:
        """Targets `[n]`: int64 class numbers for classification, float32 values for regression; int64 `[n, T]` for sequences."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Model inputs for `rows`, float32 `[len(rows), ...]` (int64 of sequences), always the same for the same rows."""

    def preview(self, row: int) -> Preview:
        """What a person sees of one example."""


@dataclass(frozen=True)
class Faults:
    """Faults planted on purpose, the ground truth for checking what the product says.

    `flipped` maps a training row to its true label; `copies` maps a training row to the row it repeats.
    """

    flipped: Mapping[int, int] = field(default_factory=dict)
    copies: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.flipped or self.copies)


@dataclass(frozen=True)
class Dataset:
    """Training examples and held-out test examples of one task.

    `test` never holds a row whose input is also a training input (but for `explain`, where the user names the rows; of
    sequences, whose tokens and targets are both those of a training row); what was left out for that reason is said in
    `notes`, in words for people. `classes` is empty but for classification, `vocabulary` is how many tokens sequences are
    of, 0 for other tasks.
    """

    name: str
    task: Task
    train: Examples
    test: Examples
    classes: tuple[str, ...] = ()
    faults: Faults = field(default_factory=Faults)
    notes: tuple[str, ...] = ()
    vocabulary: int = 0


@runtime_checkable
class Source(Protocol):
    """Where examples come from: a frozen dataclass whose fields are its settings."""

    kind: ClassVar[str]

    def load(self) -> Dataset:
        """Read and check the data; a `DataError` says what is wrong with it."""

    def spec(self) -> dict[str, Any]:
        """JSON-ready settings with `kind`; `sources.from_spec` turns them back into an equal source."""


@runtime_checkable
class Objective(Protocol):
    """What the model was trained for, in terms of its raw outputs `[b, k]` (logits, or regression values).

    Targets are int64 `[b]` for classification, float `[b]` for regression (k = 1), and int64 `[b, T]` for sequences (see
    `explorer.sequences` for their outputs). What is measured may ask about others: `targets` are then the class of each `margin` `[b]`, or P and Q of each `contrast` `[b, 2]`.
    """

    task: ClassVar[ObjectiveTask]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per-example training loss `[b]`."""

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Gradient of `loss` with respect to the outputs, `[b, k]`."""

    def loss_curvature(self, outputs: Tensor) -> Tensor:
        """Hessian of `loss` with respect to the outputs, `[b, k, k]`; positive semi-definite."""

    def measure(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """The quantity a query asks about, `[b]`; higher is better (log-probability in nats, or see MATHS).

        Raises:
            SettingsError: the task knows no such target.
        """

    def measure_gradient(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """Gradient of `measure` with respect to the outputs, `[b, k]`."""

    def predict(self, outputs: Tensor) -> Tensor:
        """The model's answer `[b]`: class numbers, or regression values; `[b, T]` tokens of sequences."""


@dataclass(frozen=True)
class Recipe:
    """How the project trains: SGD with momentum and a cosine rate over shuffled batches, fixed by `seed`.

    `epochs=None` lets the size of the training set decide (`training.resolve_epochs`).
    """

    epochs: int | None = None
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (self.epochs is None or self.epochs >= 1, "epochs", ">= 1"),
            (0 < self.rate < float("inf"), "rate", "> 0 and finite"),
            (0 <= self.momentum < 1, "momentum", "in [0, 1)"),
            (0 <= self.weight_decay < float("inf"), "weight_decay", ">= 0 and finite"),
            (self.batch_size >= 1, "batch_size", ">= 1"),
            (0 <= self.seed < 2**32, "seed", "in 0..2^32 - 1"),
        )
        for ok, name, rule in checks:
            if not ok:
                raise SettingsError(f"Expected {name} {rule}; found {getattr(self, name)!r}. Choose another {name}.")


@dataclass(frozen=True)
class Training:
    """How a subject's weights came about: by `recipe`, over all training examples, through `epochs` epochs.

    `weights(e)` is the state dict after e epochs, 0 = before the first step; it may read a file each time.
    """

    recipe: Recipe
    epochs: int
    weights: Callable[[int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Subject:
    """What is explained: a trained model, the examples it was trained on, and the objective it was trained for.

    `weight_decay` is the coefficient wd of (wd/2)‖θ‖² in the objective. `key` identifies weights and data. `training` is
    None where the weights come from elsewhere: methods that go back through the training then say that they cannot.
    `pretrained` is the stage that fine-tuning began from, for methods that explain by its examples; None for others.
    """

    model: torch.nn.Module
    train: Examples
    objective: Objective
    weight_decay: float
    key: str
    training: Training | None = None
    pretrained: Subject | None = None


@dataclass(frozen=True)
class Queries:
    """Rows of held-out examples and the target asked of each.

    `classes` names what the target leaves open: the class of each `margin`, `[q]` (None: the given label), or P and Q of
    each `contrast`, `[q, 2]`. Whether the model knows such classes is checked where its outputs are known.
    """

    examples: Examples
    rows: NDArray[np.int64]
    target: Target = "label"
    classes: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.target not in ASKABLE:
            raise SettingsError(f"Expected target to be one of {', '.join(ASKABLE)}; found {self.target!r}.")
        if self.classes is None:
            if self.target == "contrast":
                raise SettingsError("Expected two classes P, Q for a contrast; found none. Name both.")
            return
        count, found = len(self.rows), self.classes
        wanted = {"margin": (count,), "contrast": (count, 2)}.get(self.target)
        if wanted is None:
            raise SettingsError(
                f"Expected no classes for the target {self.target}; found {found.tolist()}. Ask about a margin (one class) "
                "or a contrast (two), or leave the classes out."
            )
        if found.shape != wanted or not np.issubdtype(found.dtype, np.integer):
            raise SettingsError(
                f"Expected classes as whole numbers {list(wanted)} for the {self.target} of {count} queries; found "
                f"{found.dtype} {list(found.shape)}. Give {'two classes' if self.target == 'contrast' else 'a class'} a query."
            )
        if self.target == "contrast" and bool((found[:, 0] == found[:, 1]).any()):
            same = int(found[np.flatnonzero(found[:, 0] == found[:, 1])[0], 0])
            raise SettingsError(
                f"Expected two different classes for a contrast; found {same} twice. Choose another one."
            )

    def block(self, part: slice) -> Queries:
        """The same questions for some of the rows."""
        return replace(self, rows=self.rows[part], classes=None if self.classes is None else self.classes[part])


@dataclass(frozen=True)
class Scores:
    """Influence of training examples on queries: `values[q, i]`, float32 `[query, train]`.

    **Sign and size, everywhere:** s(q, i) estimates m_q(θ) − m_q(θ trained without i), where the measure m is
    higher-is-better. Positive = helpful = "towards": removing example i would make the answer to q worse.
    `unit` is the unit of m ("nats", ...) or says that only ranks compare.
    """

    values: Tensor
    query_ids: NDArray[np.str_]
    train_ids: NDArray[np.str_]
    method: str
    target: Target
    unit: str
    stats: Mapping[str, Any]


@runtime_checkable
class Fitted(Protocol):
    """A method after `fit`: it has seen the training set and never a query. Safe to save and reload."""

    @property
    def unit(self) -> str:
        """The unit of the scores, or that only ranks compare."""

    @property
    def stats(self) -> Mapping[str, Any]:
        """Evidence: damping, residual, seconds, ..., JSON-ready."""

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence of every training example on every query; `out`, float32 `[query, train]`, takes the values."""

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Σ_q weights[k, q] · s(q, i) as `[k, train]`, without building the query x train matrix."""

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """s(i, i) of every training example on its own loss, `[train]`, never negative."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything `Method.restore` needs beyond the subject and `stats`."""


@runtime_checkable
class Redampable(Protocol):
    """A fitted method whose damping can be changed without another pass over the training set."""

    @property
    def stats(self) -> Mapping[str, Any]:
        """As of any fitted method, with `damping` and `mean_eigenvalue`."""

    def redamped(self, damping: float) -> Fitted:
        """As if fitted with this damping; a `SettingsError` where the curvature is singular at it."""


@runtime_checkable
class Method(Protocol):
    """One way to estimate influence: a frozen dataclass whose fields are its settings, checked on creation."""

    name: ClassVar[str]

    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Everything that can be done before a query is known."""

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The `Fitted` that `fit` returned, from its saved `tensors()` and `stats`."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the bytes of a run. The hash of its canonical JSON names the run directory.

    `source`, `model` and `method` are JSON-ready settings as their rooms write them; `queries` is how many test
    predictions to explain (None = all of them), worst confident mistakes first, or the ids of those to explain, sorted.
    `evidence` is how many models are trained again on random halves to check the scores and to choose the damping.
    """

    source: Mapping[str, Any]
    model: Mapping[str, Any]
    recipe: Mapping[str, Any]
    method: Mapping[str, Any]
    queries: int | tuple[str, ...] | None = None
    seed: int = 0
    format_version: int = FORMAT_VERSION
    evidence: int = 0
