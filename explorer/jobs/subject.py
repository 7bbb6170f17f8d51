"""Which model and data does a run explain? From a spec's JSON (or objects in memory) to a dataset and a subject.

The only place where sources, models and weights meet. Trains nothing itself: it says what to train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.torch

from explorer import loading, models, objectives, sources, transformer
from explorer.contracts import Dataset, Recipe, Subject, Training
from explorer.errors import ModelError
from explorer.influence.gradients import Head, head_pass
from explorer.sequences import SequenceLogProbability
from explorer.token_models import TokenModel, check_tokens, sequence_subject
from explorer.training import EpochState, resolve_epochs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from explorer.store import Run


class Ingredients(Protocol):
    """What the pipeline needs to begin: data, and a model that is trained or to be trained."""

    def dataset(self) -> Dataset:
        """The examples."""

    def model(self, dataset: Dataset) -> nn.Module:
        """The network for this data, with its starting or its final weights."""

    @property
    def trained(self) -> bool:
        """Whether the weights are final; otherwise the project's recipe trains them."""


@dataclass(frozen=True)
class FromSpec:
    """Ingredients named by a run's spec: what a worker process can rebuild from its files."""

    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int

    @property
    def trained(self) -> bool:
        """Whether the spec names a weights file."""
        return "weights" in self.settings

    def dataset(self) -> Dataset:
        """Load the source."""
        return sources.from_spec(dict(self.source)).load()

    def model(self, dataset: Dataset) -> nn.Module:
        """Build the reference network or call the user's factory, then load the weights file if one is named.

        A network of sequences is bound as a `TokenModel`; names in the weights file are those of the network itself.
        """
        factory = self.settings.get("factory")
        if factory is not None:
            model = loading.load_model(factory["path"], None, seed=self.seed)
        else:
            model = reference(self.settings["kind"], dataset, self.seed)
        if self.trained:
            weights = self.settings["weights"]
            path = Path(weights["path"])
            found = file_hash(path) if path.is_file() else None
            if found is not None and found != weights["sha256"]:
                raise ModelError(
                    f"Expected the weights file that this run was started with ({path}, sha256 {weights['sha256'][:12]}...); "
                    f"found another content ({found[:12]}...). Start a new run for the new weights."
                )
            loading.apply_weights(model, loading.load_weights(path))
        return bound(model, dataset)


@dataclass(frozen=True)
class InMemory:
    """Ingredients that exist only in this process: `explorer.show` on a user's own objects."""

    data: Dataset
    network: nn.Module
    trained: bool = True

    def dataset(self) -> Dataset:
        """The given examples."""
        return self.data

    def model(self, dataset: Dataset) -> nn.Module:
        """The given network."""
        return bound(self.network, dataset)


def fresh(ingredients: Ingredients, dataset: Dataset) -> Callable[[int], nn.Module]:
    """How a model begins again: from the initial weights that each seed draws, where the ingredients can draw others."""

    def make(seed: int) -> nn.Module:
        other = replace(ingredients, seed=seed) if isinstance(ingredients, FromSpec) else ingredients
        return other.model(dataset)

    return make


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def reference(kind: str, dataset: Dataset, seed: int) -> nn.Module:
    """The project's own network of that kind for this data; "auto" is the one that fits.

    Raises:
        ModelError: a network of sequences for other data, or the other way round.
    """
    sequences = dataset.task == "sequence"
    if kind != "auto" and sequences != (kind == transformer.KIND):
        what = "sequences of tokens" if sequences else "examples with one target each"
        raise ModelError(
            f"Expected a model for {what}; found {kind!r}. Leave it to auto, or bring a network of your own."
        )
    shape = tuple(dataset.train.batch(np.zeros(1, dtype=np.int64)).shape[1:])
    if sequences:
        longest = max(shape[1], np.asarray(dataset.test.labels).shape[1])
        return transformer.build(dataset.vocabulary, longest, seed)
    return models.build(models.default_kind(shape) if kind == "auto" else kind, shape, outputs_of(dataset), seed)


def bound(network: nn.Module, dataset: Dataset) -> nn.Module:
    """The network as the engine takes it: that of sequences as a `TokenModel`, any other as it is."""
    return TokenModel(network) if dataset.task == "sequence" else network


def outputs_of(dataset: Dataset) -> int:
    """How many outputs a model of this task has: of sequences for each token, a network of one's own may know more."""
    return {"classification": len(dataset.classes), "sequence": dataset.vocabulary, "regression": 1}[dataset.task]


def make_subject(model: nn.Module, dataset: Dataset, weight_decay: float, training: Training | None = None) -> Subject:
    """Bind model and training examples, after one batch has shown that they fit each other.

    Raises:
        ModelError: outputs of the wrong shape, not finite, or different in two passes.
        DataError: sequences with tokens that the model does not have.
    """
    if dataset.task == "sequence":
        return replace(_of_sequences(model, dataset, weight_decay), training=training)
    few = np.arange(min(8, len(dataset.train)), dtype=np.int64)
    batch: Tensor = dataset.train.batch(few)
    loading.check_model(model, batch, outputs_of(dataset))
    key = hashlib.sha256(f"{loading.weights_key(model)} {dataset.train.key}".encode()).hexdigest()
    return Subject(model, dataset.train, objectives.for_task(dataset.task), weight_decay, key, training)


def _of_sequences(model: nn.Module, dataset: Dataset, weight_decay: float) -> Subject:
    subject = sequence_subject(model, dataset.train, weight_decay)
    assert isinstance(subject.objective, SequenceLogProbability)
    held_out = np.asarray(dataset.test.labels)
    check_tokens(held_out, held_out.shape[1] * (subject.objective.vocabulary + 1))
    return subject


def predictions(subject: Subject) -> Tensor:
    """The model's answer to each of its training examples, `[n]`; cost a pass over them."""
    everything = np.arange(len(subject.train), dtype=np.int64)
    head = Head.of(subject.model, subject.train.batch(everything[:1]))
    return subject.objective.predict(head_pass(subject, head, subject.train, everything).outputs)


def subject_of(run: Run, ingredients: Ingredients) -> tuple[Dataset, Subject]:
    """What a run explains, with the final weights that its job wrote."""
    dataset = ingredients.dataset()
    model = ingredients.model(dataset)
    model.load_state_dict(safetensors.torch.load((run.path / "model.safetensors").read_bytes()))
    decay = float(run.spec["recipe"]["weight_decay"])
    return dataset, make_subject(model, dataset, decay, training_of(run, ingredients, dataset))


def training_of(run: Run, ingredients: Ingredients, dataset: Dataset) -> Training | None:
    """The training that the run's own job did, from its checkpoints; None where the weights come from elsewhere."""
    if ingredients.trained or not isinstance(ingredients, FromSpec):
        return None
    recipe = Recipe(**run.spec["recipe"])

    def weights(epoch: int) -> Mapping[str, Tensor]:
        if epoch == 0:
            return ingredients.model(dataset).state_dict()
        saved = safetensors.torch.load((run.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors").read_bytes())
        return EpochState.from_tensors(saved).parameters

    return Training(recipe, resolve_epochs(recipe, len(dataset.train)), weights)
