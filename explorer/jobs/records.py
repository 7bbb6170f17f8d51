"""What is written down of the examples themselves: who they are, what they look like, and what was planted among them.

Writes the files of the stage of data, of any task; knows no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from explorer.contracts import Dataset, Examples, ImagePreview, Preview, TablePreview, TextPreview
from explorer.store import Run, write_array, write_json, write_table
from explorer.store.run import Split, texts_name


def write_data(run: Run, data: Dataset) -> None:
    """Ids, labels, planted faults and previews of both splits, then `data.json`, whose presence says that all is done."""
    if run.has("data.json"):
        return
    train = identity(data.train)
    if data.faults:
        train["true_label"] = true_labels(data)
        train["copy_of"] = [data.faults.copies.get(row, -1) for row in range(len(data.train))]
    write_table(run.path / "train.parquet", train)
    write_table(run.path / "test.parquet", identity(data.test))
    kind, features = "image", tuple[str, ...]()
    parts: tuple[tuple[Split, Examples], ...] = (("train", data.train), ("test", data.test))
    for split, examples in parts:
        kind, features = _write_previews(run, split, [examples.preview(row) for row in range(len(examples))])
    write_json(
        run.path / "data.json",
        {
            "name": data.name,
            "task": data.task,
            "classes": list(data.classes),
            "train": len(data.train),
            "test": len(data.test),
            "preview": kind,
            "features": list(features),
            "notes": list(data.notes),
            "flipped": len(data.faults.flipped),
            "copies": len(data.faults.copies),
        },
    )


def identity(examples: Examples) -> pd.DataFrame:
    """Row, id and label of every example; the label of a sequence is the text of its continuation."""
    labels = np.asarray(examples.labels)
    shown: Any = labels if labels.ndim == 1 else [continuation(examples, row) for row in range(len(examples))]
    return pd.DataFrame({"row": np.arange(len(examples)), "id": examples.ids.astype(str), "label": shown})


def continuation(examples: Examples, row: int) -> str:
    """The text that a sequence asks."""
    shown = examples.preview(row)
    assert isinstance(shown, TextPreview)
    return shown.continuation


def true_labels(data: Dataset) -> Any:
    """Labels of the training examples without planted flips; sequences have none, so theirs are as they are."""
    if data.task == "sequence":
        return identity(data.train)["label"]
    true = np.array(data.train.labels)
    true[list(data.faults.flipped)] = list(data.faults.flipped.values())
    return true


def _write_previews(run: Run, split: Split, previews: list[Preview]) -> tuple[str, tuple[str, ...]]:
    """The files of one split; which kind they are, and the names of a table's columns."""
    texts = [one for one in previews if isinstance(one, TextPreview)]
    tables = [one for one in previews if isinstance(one, TablePreview)]
    if texts:
        table = pd.DataFrame({name: [getattr(one, name) for one in texts] for name in ("prompt", "continuation")})
        write_table(run.path / f"{texts_name(split)}.parquet", table)
        return "text", ()
    if tables:
        write_array(run.path / f"unusual-{split}.npy", np.stack([one.unusual for one in tables]).astype(np.float32))
        write_array(run.path / f"preview-{split}.npy", np.stack([one.values for one in tables]).astype(np.float32))
        return "table", tables[0].names
    write_array(
        run.path / f"preview-{split}.npy", np.stack([p.pixels for p in previews if isinstance(p, ImagePreview)])
    )
    return "image", ()
