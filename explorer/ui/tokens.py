"""May this request read binary routes? One random token per browser session, known to the server's process only.

Streamlit's own login does not protect routes of an app, so each route asks here. Tokens live in memory.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

KEPT = 4096
"""Sessions remembered; the least recently used is forgotten first."""

_known: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()


def issue() -> str:
    """A new token for a session."""
    token = secrets.token_urlsafe(24)
    with _lock:
        _known[token] = None
        while len(_known) > KEPT:
            _known.popitem(last=False)
    return token


def is_known(token: str) -> bool:
    """Whether this server gave the token to a session."""
    with _lock:
        if token in _known:
            _known.move_to_end(token)
            return True
    return False
