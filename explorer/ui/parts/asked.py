"""What is the influence on a query, whether or not a job wrote it? Says on the screen that it waits, where it does."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from explorer.contracts import Target
from explorer.store import Row, Run, TopList
from explorer.ui import load

WAITING = "Asking the run's worker; the first question starts it, which takes some seconds."


@dataclass(frozen=True)
class Influence:
    """The strongest examples of a query and its int8 row."""

    top: TopList
    row: Row


def influence(run: Run, query: int, target: Target) -> Influence:
    """The influence on a query, stored or asked of the run's worker.

    Raises:
        RunError: it is not stored and the run's worker cannot answer; the message says why.
    """
    top, row = run.top(query, target), run.row(query, target)
    if top is not None and row is not None:
        return Influence(top, row)
    with st.spinner(WAITING):
        return Influence(load.top(run, query, target), load.row(run, query, target))
