"""Where is the reader? The session's ids and small choices, and the address that carries them to others.

The link is the state: whoever opens it sees the same. Knows no files; `selected` gives the words their meaning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from explorer.ui import tokens

CAMERA = "camera"
"""The part of the address that the map itself writes and reads: it never comes to Python's attention."""


def address() -> dict[str, str]:
    """What the address says, but for the camera."""
    return {name: value for name, value in st.query_params.to_dict().items() if name != CAMERA}


def write_address(wanted: Mapping[str, str]) -> None:
    """Put the state into the address, as one step of the browser's history; the camera of the same run stays."""
    said = address()
    if said != wanted:
        camera = st.query_params.get(CAMERA) if said.get("run") in (None, wanted.get("run")) else None
        st.query_params.from_dict({**wanted, **({} if camera is None else {CAMERA: camera})})
    st.session_state["link"] = dict(wanted)


def came_from_outside() -> bool:
    """Whether the address changed by other means than `write_address`: a link, the back button."""
    return address() != st.session_state.get("link")


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
