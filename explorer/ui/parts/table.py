"""Which rows do I take with me? The strongest examples, or everything the map shows, as a table, a file and a line of code."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from explorer import memorization, shown
from explorer.contracts import Target
from explorer.shown import Filter, Selection
from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import answers, load
from explorer.ui.views.words import as_markdown

STRONGEST, ON_MAP = "The strongest of both signs", "All that the map shows"
ROWS_ON_SCREEN = 2_000
MEDIA = {
    "csv": ("CSV", "text/csv"),
    "parquet": ("Parquet", "application/vnd.apache.parquet"),
    "json": ("JSON", "application/json"),
}


def show(run: Run, query: int, target: Target, filter_: Filter, selection: Selection | None) -> None:
    """The table, its files, and the lines that make it again."""
    if run.row(query, target) is None:
        st.info("The influence on this prediction is not stored in this run, so there is no table of it.")
        return
    chosen = st.radio("Rows", (STRONGEST, ON_MAP), horizontal=True, key="table-rows", label_visibility="collapsed")
    strongest = chosen == STRONGEST
    table = shown.table(run, query, target, filter_, selection, strongest=strongest)
    st.caption(_counted(table, load.meta(run).train, strongest))
    st.dataframe(
        _named(table.head(ROWS_ON_SCREEN)),
        hide_index=True,
        height=380,
        column_config={
            "share": st.column_config.NumberColumn(format="percent"),
            "memorized": st.column_config.CheckboxColumn(
                "suspect", help="Looks memorized or mislabeled; in files and in Python this column is called memorized."
            ),
        },
    )
    name = str(answers.query_row(run, query)["id"])
    _files(table, f"{run.key}-{name}")
    said = shown.Words(run.key, name, target, filter_.text(), "" if selection is None else selection.text(), strongest)
    st.caption("The same table in Python, and in a terminal:")
    st.code(said.python(), language="python", wrap_lines=True)
    st.code(said.terminal(), language="bash", wrap_lines=True)
    st.caption("The button PNG on the map saves the map as it is drawn.")


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With quadrants as the screen calls them; files keep the names of the run."""
    return table.assign(quadrant=table["quadrant"].map(memorization.NAMES)) if "quadrant" in table else table


def _counted(table: pd.DataFrame, train: int, strongest: bool) -> str:
    on_screen = f"; the first {ROWS_ON_SCREEN:,} are listed here" if len(table) > ROWS_ON_SCREEN else ""
    which = "strongest" if strongest else "shown by filter and selection"
    return as_markdown(f"{len(table):,} of {train:,} training examples, {which}{on_screen}")


def _files(table: pd.DataFrame, name: str) -> None:
    for column, (kind, (label, media)) in zip(st.columns(len(MEDIA)), MEDIA.items(), strict=True):
        column.download_button(
            f"Save as {label}",
            partial(encode, table, kind),
            f"{name}.{kind}",
            media,
            key=f"save-{kind}",
            on_click="ignore",
            width="stretch",
        )
