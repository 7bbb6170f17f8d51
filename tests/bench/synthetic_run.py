"""What does a run of a million examples look like to the screen? Writes one of any size from made-up data, without a job.

A softmax classifier on a mixture of Gaussians, with weights that need no training; its last-layer influence is computed
exactly, a few queries at a time, so memory grows neither with their number nor with their product with the examples.

    python -m tests.bench.synthetic_run --train 950000 --test 50000 --queries 512 FOLDER_OF_RUNS
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer import memorization
from explorer.contracts import MEASURE_UNIT, TARGETS, RunSpec, Target
from explorer.jobs.state import JobState, read_state
from explorer.store import Run, create, write_array, write_bundle, write_json, write_table
from explorer.store.run import BLOCK, block_name, rows_name

VERSION = 1
"""Raised when the same sizes no longer give the same run."""
CLASSES = 10
ISLANDS = 3
"""Clusters of each class."""
DIMS = 8
APART, ASIDE = 2.0, 0.6
"""Standard deviation of the classes' centers and of their clusters' about them; that of a cluster is 1."""
FLIPPED = 0.02
"""Share of labels that are wrong on purpose."""
SIDE = 8
"""Pictures are SIDE x SIDE gray pixels."""
EPOCHS = 3
"""Length of the made-up training log."""
DAMPING = 1e-3
TOP = 50
CLIP = 0.995
REPLICATES = 8
"""Bootstrap resamples behind the held-out noise band."""
CHUNK = 50_000
"""Training rows whose gradients are held at once (18 MB)."""
SCORES_HELD = 16_000_000
"""Scores held at once (64 MB)."""

Floats = NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Examples `[n]` with features `[n, DIMS]`, what the model says of them, and the pull `e` = one-hot label - p."""

    island: NDArray[np.int64]
    true: NDArray[np.int64]
    labels: NDArray[np.int64]
    features: Floats
    outputs: Floats
    p: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        return self.outputs.argmax(1)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return self.predicted != self.labels

    @property
    def measure(self) -> Floats:
        """log p(label)"""
        return np.log(self.p[np.arange(len(self.p)), self.labels]).astype(np.float32)

    def gradients(self, rows: Any, answers: NDArray[np.int64]) -> Floats:
        """Gradient of log p(answer) of these rows in the last layer's weights, `[rows, CLASSES * (DIMS + 1)]`."""
        seen = np.hstack([self.features[rows], np.ones((len(self.features[rows]), 1), np.float32)])
        pull = (np.eye(CLASSES)[answers[rows]] - self.p[rows]).astype(
            np.float32
        )  # 1 - p of a sure answer needs the digits
        return (pull[:, :, None] * seen[:, None, :]).reshape(len(seen), -1)


def write(root: Path, train: int, test: int, queries: int, seed: int = 0, say: Say = lambda note: None) -> Run:
    """The run of these sizes under `root`; one that is there and done is left as it is.

    `queries` is how many test predictions, worst first, have their influence computed.
    """
    run = create(root, spec(train, test, queries, seed))
    if read_state(run.path).state == "done":
        return run
    began = time.time()
    say("examples")
    centers = islands(seed)
    splits = [draw(size, centers, [seed, 1 + number]) for number, size in enumerate((train, test))]
    write_data(run, *splits, seed)
    say("outcomes and maps")
    write_outcomes(run, *splits, queries)
    write_maps(run, *splits, centers)
    inverse = inverse_curvature(splits[0])
    say("scores")
    write_scores(run, *splits, inverse, say)
    say("memorization")
    write_memorization(run, *splits, inverse, seed)
    now = time.time()
    write_json(run.path / "state.json", asdict(JobState("done", started=began, updated=now)))
    return run


def spec(train: int, test: int, queries: int, seed: int) -> RunSpec:
    """What names the run. Its kind is that of runs which no file can bring back: no worker can go on with it."""
    source = {"kind": "memory", "name": "synthetic", "version": VERSION, "train": train, "test": test}
    method = {"name": "last-layer", "settings": {"damping": DAMPING}}
    return RunSpec(source, {"kind": "memory"}, {"weight_decay": 0.0}, method, queries, seed)


def islands(seed: int) -> Floats:
    """Centers of the clusters, `[CLASSES, ISLANDS, DIMS]`."""
    random = np.random.default_rng([seed, 0])
    middles = random.normal(scale=APART, size=(CLASSES, 1, DIMS))
    return np.asarray(middles + random.normal(scale=ASIDE, size=(CLASSES, ISLANDS, DIMS)), dtype=np.float32)


def draw(size: int, centers: Floats, seed: list[int]) -> Split:
    """`size` examples of a mixture of CLASSES x ISLANDS Gaussians and what its linear discriminant says of them."""
    random = np.random.default_rng(seed)
    island = random.integers(CLASSES * ISLANDS, size=size)
    true = island // ISLANDS
    features = centers.reshape(-1, DIMS)[island] + random.standard_normal((size, DIMS), dtype=np.float32)
    means = centers.mean(1)
    outputs = features @ means.T - 0.5 * (means**2).sum(1)
    p = np.exp((outputs - outputs.max(1, keepdims=True)).astype(np.float64))
    p /= p.sum(1, keepdims=True)
    elsewhere = (true + random.integers(1, CLASSES, size=size)) % CLASSES
    labels = np.where(random.random(size) < FLIPPED, elsewhere, true)
    return Split(island, true, labels, features, outputs, p)


def write_data(run: Run, train: Split, test: Split, seed: int) -> None:
    """Ids, labels, planted flips and pictures, then `data.json`."""
    patterns = np.random.default_rng([seed, 3]).integers(0, 200, (CLASSES * ISLANDS, SIDE, SIDE), dtype=np.uint8)
    for number, (name, split) in enumerate((("train", train), ("test", test))):
        table = _identity(name, split)
        if name == "train":
            table["true_label"], table["copy_of"] = split.true, -1
        write_table(run.path / f"{name}.parquet", table)
        noise = np.random.default_rng([seed, 4 + number]).integers(0, 56, (len(table), SIDE, SIDE), dtype=np.uint8)
        write_array(run.path / f"preview-{name}.npy", patterns[split.island] + noise)
    about = {
        "name": "synthetic",
        "task": "classification",
        "classes": [f"class {number}" for number in range(CLASSES)],
        "train": len(train.labels),
        "test": len(test.labels),
        "preview": "image",
        "features": [],
        "notes": [],
        "flipped": int((train.labels != train.true).sum()),
        "copies": 0,
    }
    write_json(run.path / "data.json", about)


def write_outcomes(run: Run, train: Split, test: Split, queries: int) -> None:
    """Features, outputs, outcomes, a made-up training log, the queries (worst mistakes first) and their plans."""
    write_array(run.path / "features.npy", np.concatenate([train.features, test.features]))
    for name, split in (("train", train), ("test", test)):
        write_array(run.path / f"outputs-{name}.npy", split.outputs)
    write_table(run.path / "outcomes-train.parquet", _outcomes(train))
    for epoch, log in enumerate(training_log(train, test)):
        write_bundle(run.path / "training" / f"epoch-{epoch + 1:04d}.safetensors", log)
    table = pd.concat([_identity("test", test), _outcomes(test)], axis=1)
    order = np.lexsort((-table["loss"], np.where(test.wrong, -table["confidence"], 0.0), ~test.wrong))
    table = table.iloc[order].reset_index(drop=True)
    rows = table["row"].to_numpy(np.int64)[:queries]
    write_array(run.path / "plan-label.npy", rows)
    write_array(run.path / "plan-prediction.npy", rows[test.wrong[rows]])
    write_table(run.path / "queries.parquet", table)


def training_log(train: Split, test: Split) -> Iterator[dict[str, NDArray[Any]]]:
    """One log an epoch, as if the loss had come down to what it is now."""
    for left in reversed(range(EPOCHS)):
        yield {
            "loss": (-train.measure * (1 + left)).astype(np.float32),
            "confidence": (train.p.max(1) / (1 + left)).astype(np.float32),
            "correct": (~train.wrong).astype(np.float32),
            "measure": (test.measure * (1 + left)).astype(np.float32),
        }


def write_maps(run: Run, train: Split, test: Split, centers: Floats) -> None:
    """The principal plane of the features, and islands far apart in the place of UMAP."""
    features = np.concatenate([train.features, test.features])
    features -= features.mean(0)
    axes = np.linalg.eigh(features.T @ features)[1][:, ::-1][:, :2]
    write_array(run.path / "coordinates-pca.npy", (features @ axes).astype(np.float32))
    island = np.concatenate([train.island, test.island])
    turn = 2.4 * np.arange(CLASSES * ISLANDS)  # the golden angle: places as even as a sunflower's seeds
    places = (np.sqrt(1 + np.arange(CLASSES * ISLANDS)) * np.stack([np.cos(turn), np.sin(turn)])).T
    around = np.concatenate([train.features, test.features]) - centers.reshape(-1, DIMS)[island]
    write_array(run.path / "coordinates-umap.npy", (3 * places[island] + around[:, :2]).astype(np.float32))


def inverse_curvature(train: Split) -> NDArray[np.float64]:
    """(H + damping)^-1 of the mean training loss in the last layer's weights, `[90, 90]`."""
    width = DIMS + 1
    total = np.zeros((CLASSES * CLASSES, width * width))
    for start in range(0, len(train.p), CHUNK):
        p = train.p[start : start + CHUNK]
        seen = np.hstack([train.features[start : start + CHUNK], np.ones((len(p), 1))])
        spread = p[:, :, None] * np.eye(CLASSES) - p[:, :, None] * p[:, None, :]
        total += spread.reshape(len(p), -1).T @ (seen[:, :, None] * seen[:, None, :]).reshape(len(p), -1)
    hessian = total.reshape(CLASSES, CLASSES, width, width).transpose(0, 2, 1, 3).reshape(CLASSES * width, -1)
    return np.asarray(np.linalg.inv(hessian / len(train.p) + DAMPING * np.eye(len(hessian))))


def write_scores(run: Run, train: Split, test: Split, inverse: NDArray[np.float64], say: Say) -> None:
    """Top lists and int8 rows of every planned query, block by block."""
    step = max(1, min(BLOCK, SCORES_HELD // len(train.labels)))
    for target in TARGETS:
        plan, answers = run.plan(target), test.labels if target == "label" else test.predicted
        for start in range(0, len(plan), BLOCK):
            rows = plan[start : start + BLOCK]
            levels = np.empty((len(rows), len(train.labels)), dtype=np.int8)
            kept: list[dict[str, NDArray[Any]]] = []
            for first in range(0, len(rows), step):
                say(f"scores for the {target}: {start + first} of {len(plan)}")
                wanted = rows[first : first + step]
                asked = (test.gradients(wanted, answers) @ inverse / len(train.labels)).astype(np.float32)
                values = products(asked, train)
                kept.append(strongest(values))
                quantize(values, kept[-1], levels[first : first + step])
            _write_block(run, target, start, kept, levels)


def products(asked: Floats, train: Split) -> Floats:
    """Influence `[query, train]` of every training example on the measure; positive = helpful."""
    values = np.empty((len(asked), len(train.labels)), dtype=np.float32)
    for start in range(0, len(train.labels), CHUNK):
        part = slice(start, start + CHUNK)
        values[:, part] = asked @ train.gradients(part, train.labels).T
    return values


def strongest(values: Floats) -> dict[str, NDArray[Any]]:
    """The TOP most helpful and most harmful rows of each query, strongest first; -1 where the sign is wrong."""
    k = min(TOP, values.shape[1])
    found: dict[str, NDArray[Any]] = {"total": np.abs(values).sum(1)}
    for name, signed in (("towards", -values), ("away", values)):
        rows = np.argpartition(signed, k - 1, axis=1)[:, :k]
        rows = np.take_along_axis(rows, np.argsort(np.take_along_axis(signed, rows, 1), axis=1, kind="stable"), 1)
        best = np.take_along_axis(values, rows, 1)
        right = best > 0 if name == "towards" else best < 0
        found[name] = np.where(right, rows, -1).astype(np.int32)
        found[f"{name}_influence"] = np.where(right, best, 0).astype(np.float32)
    unknown = np.full(len(values), np.nan, dtype=np.float32)  # there is no second method to agree with
    return {**found, "agreement": unknown, "overlap": unknown}


def quantize(values: Floats, kept: dict[str, NDArray[Any]], levels: NDArray[np.int8]) -> None:
    """int8 rows into `levels`, and into `kept` the |influence| that 127 stands for."""
    scales = []
    for row, level in zip(values, levels, strict=True):
        magnitude = np.abs(row)
        beyond = max(1, round((1 - CLIP) * len(row)))
        scale = float(np.partition(magnitude, len(row) - beyond)[len(row) - beyond]) or float(magnitude.max()) or 1.0
        level[:] = np.clip(np.rint(row * np.float32(127 / scale)), -127, 127)
        scales.append(scale)
    kept["scale"] = np.array(scales, dtype=np.float32)


def write_memorization(run: Run, train: Split, test: Split, inverse: NDArray[np.float64], seed: int) -> None:
    """The method's evidence, self-influence, held-out influence, flags, and the headline numbers."""
    weights = memorization.bootstrap_weights(REPLICATES, len(test.labels), seed)
    pulls = sum(
        weights[:, start : start + CHUNK] @ test.gradients(slice(start, start + CHUNK), test.labels)
        for start in range(0, len(test.labels), CHUNK)
    )
    means = products((pulls @ inverse / len(train.labels)).astype(np.float32), train)
    own = [
        np.einsum("np,pq,nq->n", gradients, inverse.astype(np.float32), gradients, optimize=True)
        for start in range(0, len(train.labels), CHUNK)
        for gradients in [train.gradients(slice(start, start + CHUNK), train.labels)]
    ]
    losses = np.stack([log["loss"] for log in training_log(train, test)])
    held_out = memorization.held_out_influence(means[0], means[1:])
    table = memorization.assess(np.concatenate(own) / len(train.labels), held_out, train.labels, losses)
    evidence = {
        "layer": "the last layer",
        "whole_model": True,
        "damping": DAMPING,
        "damping_rule": "fixed",
        "weight_decay": 0.0,
        "residual": 0.0,
        "unit": MEASURE_UNIT,
    }
    write_json(run.path / "fitted.json", evidence)
    write_table(run.path / "memorization.parquet", table)
    numbers = {
        "basis": str(table["basis"].iloc[0]),
        "memorized": int(table["memorized"].sum()),
        "train_loss": float(-train.measure.mean()),
        "test_loss": float(-test.measure.mean()),
        "train_accuracy": float(1 - train.wrong.mean()),
        "test_accuracy": float(1 - test.wrong.mean()),
    }
    write_json(run.path / "summary.json", numbers)


def _identity(name: str, split: Split) -> pd.DataFrame:
    rows = np.arange(len(split.labels))
    return pd.DataFrame({"row": rows, "id": [f"{name}-{row}" for row in rows], "label": split.labels})


def _outcomes(split: Split) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prediction": split.predicted,
            "confidence": split.p.max(1).astype(np.float32),
            "loss": -split.measure,
            "wrong": split.wrong,
        }
    )


def _write_block(
    run: Run, target: Target, start: int, kept: list[dict[str, NDArray[Any]]], levels: NDArray[np.int8]
) -> None:
    write_array(run.path / rows_name(target, start), levels)
    whole = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    write_bundle(run.path / block_name(target, start), whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER_OF_RUNS")
    parser.add_argument("--train", type=int, default=950_000)
    parser.add_argument("--test", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    run = write(asked.root, asked.train, asked.test, asked.queries, asked.seed, lambda note: print(note, flush=True))
    print(f"Wrote {run.path}")


if __name__ == "__main__":
    main()
