"""Where are the flags, by class, and how does one keep all rows? The table of classes and the whole table as a file."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import load, wire


def show(run: Run) -> None:
    """Where the flags are, by class, and all rows as a file."""
    classes = load.meta(run).task == "classification"
    st.markdown("**By class**" if classes else "**By quarter of the true value**")
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
    """Examples, flags and median self-influence of each class, or of each quarter of the true values."""
    table, meta = load.train_table(run), load.meta(run)
    if meta.task == "classification":
        groups: Any = table["label"].map(dict(enumerate(meta.classes)))
    else:
        groups = pd.qcut(table["label"], 4, duplicates="drop").map(lambda part: f"{part.left:.3g} to {part.right:.3g}")
    order = table["label"].groupby(groups).median().sort_values().index
    parts = table.groupby(groups)
    found = pd.DataFrame(
        {
            "n": parts.size(),
            "flagged": parts["memorized"].sum(),
            "share": parts["memorized"].mean(),
            "median self-influence": parts["self_influence"].median(),
        }
    ).loc[order]
    return found.rename_axis("class" if meta.task == "classification" else "true value").reset_index()


def whole_table(run: Run) -> pd.DataFrame:
    """Everything known of every training example, with class names in place of numbers."""
    table, meta = load.train_table(run).copy(), load.meta(run)
    for name in ("label", "prediction", "true_label"):
        if name in table and meta.task == "classification":
            table[name] = wire.names(table[name], meta)
    return table
