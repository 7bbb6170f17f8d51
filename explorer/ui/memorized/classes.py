"""Where are the flags, by class, and how does one keep all rows? The table of classes and the whole table as a file."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from explorer import shown
from explorer.contracts import Task
from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import load, wire

GROUPED: dict[Task, str] = {
    "classification": "class",
    "regression": "quarter of the true value",
    "sequence": "what the model says",
}
AXIS: dict[Task, str] = {"classification": "class", "regression": "true value", "sequence": "model"}


def show(run: Run) -> None:
    """Where the flags are, by class, and all rows as a file."""
    st.markdown(f"**By {GROUPED[load.meta(run).task]}**")
    st.dataframe(
        grouped(run),
        hide_index=True,
        height="auto",
        column_config={
            "n": st.column_config.NumberColumn(width=45),
            "flagged": st.column_config.NumberColumn(width=65),
            "share": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width=95),
            "median self-influence": st.column_config.NumberColumn(format="%.3g", width=150),
        },
    )
    st.download_button(
        f"Save all {load.meta(run).train:,} rows as CSV",
        lambda: encode(whole_table(run), "csv"),
        f"{run.key}-memorization.csv",
        "text/csv",
        on_click="ignore",
    )


def grouped(run: Run) -> pd.DataFrame:
    """Examples, flags and median self-influence of each class, quarter of the true values, or outcome of sequences."""
    table, meta = load.train_table(run), load.meta(run)
    groups: Any
    if meta.has_classes:
        by, groups = table["label"], table["label"].map(dict(enumerate(meta.classes)))
    elif meta.has_outcomes:
        by, groups = table["wrong"], table["wrong"].map({True: "says something else", False: "says what was given"})
    else:
        by = table["label"]
        groups = pd.qcut(by, 4, duplicates="drop").map(lambda part: f"{part.left:.3g} to {part.right:.3g}")
    order = by.groupby(groups).median().sort_values().index
    parts = table.groupby(groups)
    found = pd.DataFrame(
        {
            "n": parts.size(),
            "flagged": parts["memorized"].sum(),
            "share": parts["memorized"].mean(),
            "median self-influence": parts["self_influence"].median(),
        }
    ).loc[order]
    return found.rename_axis(AXIS[meta.task]).reset_index()


def whole_table(run: Run) -> pd.DataFrame:
    """Everything known of every training example, with class names in place of numbers, and the prompts of texts."""
    table, meta = load.train_table(run).copy(), load.meta(run)
    for name in ("label", "prediction", "true_label"):
        if name in table and meta.has_classes:
            table[name] = wire.names(table[name], meta)
    if meta.preview == "text":
        table.insert(2, "prompt", shown.prompts(run, "train"))
    return table
