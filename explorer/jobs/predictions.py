"""What does the model say of every example, before anybody asks why? Its answer, how sure it is, and the features behind it.

One reader for every task, shared by the job, by the worker that answers questions and by the estimate. Writes the files of
the stage of predictions; explains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Dataset, Examples, Progress, Subject, silent
from explorer.influence.blocks import in_blocks
from explorer.influence.gradients import BATCH, ONE_FORWARD, Head, head_pass, targets_of
from explorer.influence.layers import evaluation, on_call
from explorer.influence.sequence_head import SequenceHead
from explorer.jobs.records import identity
from explorer.loading import as_model_input
from explorer.readings import block_of, read
from explorer.sequences import SequenceLogProbability
from explorer.store import Run, write_array, write_table
from explorer.tokens import TokenExamples


class Said(NamedTuple):
    """Features `[n, p]` float32, outcomes (prediction, confidence, loss, wrong) a row each, and outputs `[n, k]` where a run
    keeps them: those of sequences would be a number for every token at every position."""

    features: NDArray[np.float32]
    outcomes: pd.DataFrame
    outputs: Tensor | None


class Reader(Protocol):
    """Runs examples through a subject's model."""

    @property
    def width(self) -> int:
        """How many features there are."""

    @property
    def block(self) -> int:
        """Examples that are run at once: how an answer is rounded depends on it."""

    def read(self, examples: Examples, rows: NDArray[np.int64], progress: Progress = silent) -> Said:
        """What the model says of `rows`."""


def reader_of(subject: Subject) -> Reader:
    """The reader for the subject's task.

    Raises:
        ModelError: the model's outputs are not what its final nn.Linear returns.
    """
    if isinstance(subject.objective, SequenceLogProbability):
        return SequenceReader(subject, subject.objective, SequenceHead.of(subject))
    return HeadReader(subject, Head.of(subject.model, subject.train.batch(np.arange(1))))


@dataclass(frozen=True)
class HeadReader:
    """Reads models of one target an example; features are what goes into the last linear layer."""

    subject: Subject
    head: Head
    block: int = BATCH

    @property
    def width(self) -> int:
        """Without the column of ones that stands for the bias."""
        return self.head.layer.in_features

    def read(self, examples: Examples, rows: NDArray[np.int64], progress: Progress = silent) -> Said:
        """Outcomes as `outcomes` has them."""
        seen = head_pass(self.subject, self.head, examples, rows, progress)
        features = seen.features[:, : self.width].float().numpy()
        return Said(features, outcomes(self.subject, examples, rows, seen.outputs), seen.outputs)


@dataclass(frozen=True)
class SequenceReader:
    """Reads models of sequences; features are the mean over asked positions of what goes into the last linear layer.

    The prediction of an example is the text of the most probable token of every asked position, each after the true tokens
    before it; confidence is the probability of all of them together.
    """

    subject: Subject
    objective: SequenceLogProbability
    head: SequenceHead

    @property
    def width(self) -> int:
        """Without the bias."""
        layer = self.head.layer.module
        assert isinstance(layer, nn.Linear)
        return layer.in_features

    @property
    def block(self) -> int:
        """Fewer where a sequence has many outputs."""
        return block_of(self.objective, self.subject.train, BATCH)

    def read(self, examples: Examples, rows: NDArray[np.int64], progress: Progress = silent) -> Said:
        """No outputs are kept. Raises ModelError where they are not finite."""
        labels, got = np.asarray(examples.labels), list[Tensor]()
        handle = on_call(self.head.layer.module, lambda features, _: got.append(features))

        def run(part: slice) -> tuple[Tensor, list[str], Any]:
            progress(part.start, len(rows), "features")
            got.clear()
            some = rows[part]
            outputs = self.subject.model(as_model_input(self.subject.model, examples.batch(some))).detach().cpu()
            _, asked = self.objective.parts(outputs)
            marks = asked.unsqueeze(2)
            features = (got[0].detach().cpu() * marks).sum(1) / marks.sum(1)
            found = read(self.objective, outputs, torch.from_numpy(labels[some]), 0.0)
            own = self.objective.predict(outputs).numpy()
            said = [text_of(examples, int(row), tokens) for row, tokens in zip(some, own, strict=True)]
            return features.float(), said, found

        try:
            with evaluation(self.subject.model), torch.no_grad():
                parts = [found for _, found in in_blocks(len(rows), self.block, run, ONE_FORWARD)]
        finally:
            handle.remove()
        progress(len(rows), len(rows), "features")
        every = [found for _, _, found in parts]
        table = {
            "prediction": np.array([text for _, texts, _ in parts for text in texts], dtype=object),
            "confidence": torch.cat([found.max_probability for found in every]).float().numpy(),
            "loss": torch.cat([found.loss for found in every]).float().numpy(),
            "wrong": ~torch.cat([found.correct for found in every]).numpy(),
        }
        return Said(torch.cat([features for features, _, _ in parts]).numpy(), pd.DataFrame(table), None)


def text_of(examples: Examples, row: int, tokens: NDArray[np.int64]) -> str:
    """Tokens that a model says at the positions of an example, as text."""
    while not isinstance(examples, TokenExamples):  # rows of other examples, such as planted copies
        row, examples = int(examples.rows[row]), examples.inner  # type: ignore[attr-defined]
    return examples.said(tokens)


def write_predictions(run: Run, data: Dataset, subject: Subject, progress: Progress) -> None:
    """Features and outputs of all examples, the table of queries in the order people want them, and the plans."""
    if run.has("queries.parquet"):
        return
    path, reader = run.path, reader_of(subject)
    features, tables = [], []
    for split, examples in (("train", data.train), ("test", data.test)):
        said = reader.read(examples, np.arange(len(examples), dtype=np.int64), progress)
        features.append(said.features)
        tables.append(said.outcomes)
        if said.outputs is not None:
            write_array(path / f"outputs-{split}.npy", said.outputs.float().numpy())
    write_array(path / "features.npy", np.concatenate(features))
    write_table(path / "outcomes-train.parquet", tables[0])
    queries = identity(data.test).join(tables[1]).iloc[worst_first(tables[1], data.task)].reset_index(drop=True)
    asked = _asked(queries, run.spec.get("queries"))
    differ = asked["wrong"].to_numpy() if data.task != "regression" else np.ones(len(asked), dtype=bool)
    write_array(path / "plan-label.npy", asked["row"].to_numpy(np.int64))
    write_array(path / "plan-prediction.npy", asked["row"].to_numpy(np.int64)[differ])
    write_table(path / "queries.parquet", queries)


def _asked(queries: pd.DataFrame, which: int | list[str] | None) -> pd.DataFrame:
    """The queries to explain, worst first: so many, those of these ids, or all."""
    if isinstance(which, list):
        return queries[queries["id"].isin(which)]
    return queries.head(which) if which is not None else queries


def outcomes(subject: Subject, examples: Examples, rows: NDArray[np.int64], outputs: Tensor) -> pd.DataFrame:
    """Prediction, confidence (NaN for regression), loss and whether it is wrong (never, for regression), per row."""
    targets = targets_of(examples, rows, outputs.shape[1])
    predicted = subject.objective.predict(outputs).numpy()
    classes = subject.objective.task == "classification"
    confidence = outputs.softmax(1).amax(1).numpy() if classes else np.full(len(rows), np.nan)
    return pd.DataFrame(
        {
            "prediction": predicted if classes else predicted.astype(np.float32),
            "confidence": confidence.astype(np.float32),
            "loss": subject.objective.loss(outputs, targets).numpy().astype(np.float32),
            "wrong": (predicted != np.asarray(examples.labels)[rows]) if classes else np.zeros(len(rows), dtype=bool),
        }
    )


def worst_first(table: pd.DataFrame, task: str) -> NDArray[np.int64]:
    """Order of queries: wrong before right, the most confident mistakes first, then by falling loss."""
    confidence = table["confidence"].fillna(0).to_numpy() if task != "regression" else np.zeros(len(table))
    wrong = table["wrong"].to_numpy()
    first_key = np.where(wrong, -confidence, 0.0)
    return np.lexsort((np.arange(len(table)), -table["loss"].to_numpy(), first_key, ~wrong)).astype(np.int64)
