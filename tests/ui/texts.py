"""A run of sequences for the tests of the pages: a small computed run told in texts, as files say it.

Influence, maps and memorization are those of the run it is made of; what is made here are the texts and what the model says.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explorer.contracts import Recipe
from explorer.jobs.planning import Request
from explorer.store import Run
from tests.conftest import compute

HOSTILE = "<img src=x onerror=window.__pwned=1>"
N_TRAIN, N_TEST = 120, 60
ANIMALS = ("fox", "heron", "otter", "lynx", "badger", "stoat", "marten", "owl")
ENDINGS = (
    "sleeps under the old oak until the evening comes",
    "hunts along the river bank when the moon is full",
    "hides its young between the roots of the alder",
)
"""What is asked, by class of the run that it is made of."""
LONG = 9
"""This test row and this training row have a prompt of thousands of letters."""
EMPTY = 7
"""These have no prompt."""


@dataclass(frozen=True)
class Split:
    """Texts and outcomes of the examples of a split `[n]`; `said` is the model's own continuation."""

    prompts: list[str]
    continuations: list[str]
    said: list[str]


def computed(root: Path) -> Run:
    """A run of sequences of 120 training and 60 test examples; takes seconds."""
    draw = np.random.default_rng(5)
    labels = np.arange(N_TRAIN + N_TEST) % len(ENDINGS)
    inputs = (draw.normal(size=(len(labels), 5)) + 0.8 * labels[:, None]).astype(np.float32)
    given = labels.copy()
    given[:12] = (labels[:12] + 1) % len(ENDINGS)
    arrays = {
        "x_train": inputs[:N_TRAIN],
        "y_train": given[:N_TRAIN],
        "x_test": inputs[N_TRAIN:],
        "y_test": given[N_TRAIN:],
    }
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "base.npz", **arrays)
    return told(compute(root, Request(str(root / "base.npz"), recipe=Recipe(epochs=12))))


def told(run: Run) -> Run:
    """Turns a finished run of classes into one of sequences, in place: the same answers, in texts."""
    data = json.loads((run.path / "data.json").read_text())
    outcomes = {"train": run.table("outcomes-train"), "test": run.table("queries").sort_values("row")}
    given = {split: run.table(split)["label"].to_numpy() for split in ("train", "test")}
    made = {split: _split(split, given[split], outcomes[split]["prediction"].to_numpy()) for split in ("train", "test")}
    for split, texts in made.items():
        pd.DataFrame({"prompt": texts.prompts, "continuation": texts.continuations}).to_parquet(
            run.path / f"texts-{split}.parquet"
        )
        table = run.table(split)
        _written(run, split, table.assign(label=texts.continuations))
        for name in ("preview", "unusual"):
            (run.path / f"{name}-{split}.npy").unlink()
    queries = run.table("queries")
    rows = queries["row"].to_numpy()
    test = made["test"]
    said, asked = ([texts[row] for row in rows] for texts in (test.said, test.continuations))
    _written(run, "queries", queries.assign(label=asked, prediction=said))
    _written(run, "outcomes-train", run.table("outcomes-train").assign(prediction=made["train"].said))
    for name in ("class-matrix.npy", "class-influence.npy"):
        (run.path / name).unlink(missing_ok=True)
    data |= {"task": "sequence", "preview": "text", "classes": [], "features": [], "name": "nature notes"}
    (run.path / "data.json").write_text(json.dumps(data))
    return Run.at(run.path)


def copied(run: Run, root: Path, name: str = "texts0000001", **state: Any) -> Run:
    """A copy of a run in another folder of runs."""
    shutil.copytree(run.path, root / name)
    told_state = json.loads((root / name / "state.json").read_text()) | state
    (root / name / "state.json").write_text(json.dumps(told_state))
    return Run.at(root / name)


def _split(split: str, given: np.ndarray, said: np.ndarray) -> Split:
    """Texts of a split by class of what was given and of what the model says."""
    draw = np.random.default_rng(len(given))
    prompts = [
        f"In the {year}th year of the survey, the {ANIMALS[draw.integers(8)]}" for year in range(4, 4 + len(given))
    ]
    prompts[LONG] = "Once more it was noted that nothing had changed since the spring. " * 60 + prompts[LONG]
    prompts[EMPTY], prompts[3] = "", f"{HOSTILE} {prompts[3]}"
    continuations, answers = ([ENDINGS[int(number)] for number in numbers] for numbers in (given, said))
    continuations[3] = f"{continuations[3]} {HOSTILE}"
    for row, (one, other) in enumerate(zip(given, said, strict=True)):
        if one == other:
            answers[row] = continuations[row]
        elif row % 2:  # a single word is another
            words = continuations[row].split()
            answers[row] = " ".join([*words[:3], "a", *words[4:]])
    short = int(np.flatnonzero((given != said) & (np.arange(len(given)) % 2 == 0))[0])
    answers[short] = " ".join(continuations[short].split()[:4])
    return Split(prompts, continuations, answers)


def _written(run: Run, name: str, table: pd.DataFrame) -> None:
    table.to_parquet(run.path / f"{name}.parquet", index=False)
