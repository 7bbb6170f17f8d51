"""What is selected? Ids only, kept in the session and bound to the address: run, query, target.

The link is the state: whoever opens it sees the same. Knows no files; pages look the ids up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import streamlit as st

from explorer.contracts import TARGETS, Target
from explorer.ui import tokens

RUN, QUERY, TARGET = "run", "query", "target"


@dataclass(frozen=True)
class Link:
    """What the address says: a run's name, a query's id, a target; each may be missing."""

    run: str | None
    query: str | None
    target: Target


def link() -> Link:
    """Read the address; an unknown target reads as the label."""
    asked = st.query_params.get(TARGET, TARGETS[0])
    target = next((known for known in TARGETS if known == asked), TARGETS[0])
    return Link(st.query_params.get(RUN), st.query_params.get(QUERY), target)


def write_link(run: str, query: str | None = None, target: Target = "label") -> None:
    """Put the selection into the address, as one step of the browser's history."""
    wanted = {RUN: run}
    if query is not None:
        wanted |= {QUERY: query, TARGET: target}
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)
    st.session_state["link"] = wanted


def came_from_outside() -> bool:
    """Whether the address changed by other means than `write_link`: a link, the back button."""
    return dict(st.query_params) != st.session_state.get("link")


def token() -> str:
    """This session's key to the binary routes."""
    if "token" not in st.session_state:
        st.session_state["token"] = tokens.issue()
    issued: str = st.session_state["token"]
    return issued


def raise_revision() -> None:
    """Say that the selection comes from Python: the browser takes it over whatever it had.

    A new session begins above every earlier one (the clock decides), because after a restart of the server the browser
    still has the old session's selection.
    """
    st.session_state["revision"] = max(int(time.time() * 10), st.session_state.get("revision", 0) + 1)


def get(name: str, default: Any = None) -> Any:
    """A value of this session."""
    return st.session_state.get(name, default)


def put(name: str, value: Any) -> None:
    """Remember a value for this session: ids and small choices only."""
    st.session_state[name] = value
