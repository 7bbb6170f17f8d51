"""What does the panel show of an answer? The HTML that views make of it, in the form the browser asks for.

The same views as everywhere, drawn before anybody clicks where the browser fetches ahead. Decides nothing about where
on the page it goes.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from explorer.contracts import Target
from explorer.errors import ExplorerError
from explorer.store import Run
from explorer.ui import answers, load
from explorer.ui.views import card, gallery


def answer(run: Run, query: int, target: Target) -> bytes:
    """The whole answer as JSON: card, trust line and galleries as HTML; `id` names the test example.

    Raises:
        ComputedSoonError, RunError: there is none; see `load.top`.
    """
    return _answer(str(run.path), load.seen(run), query, target)


def without_answer(run: Run, query: int, target: Target, error: ExplorerError) -> dict[str, Any]:
    """What is known of a prediction whose influence is not there: its card, why, and whether it comes by itself."""
    asked = answers.query(run, query, target)
    soon = isinstance(error, load.ComputedSoonError)
    return {"id": asked.id, "ready": False, "soon": soon, "card": card.query_card(asked), "error": str(error)}


@lru_cache(maxsize=128)
def _answer(path: str, stamp: str, query: int, target: Target) -> bytes:  # noqa: ARG001 - part of the cache's key
    run = load.open_at(path)
    top = load.top(run, query, target)
    asked = answers.query(run, query, target)
    towards, away = answers.tiles(run, top)
    unit, train = answers.unit(run, target), load.meta(run).train
    made = {
        "id": asked.id,
        "ready": True,
        "card": card.query_card(asked),
        "trust": card.trust_line(answers.trust(run, query, target, top)),
        "galleries": gallery.galleries(towards, away, unit, train),
    }
    return json.dumps(made, separators=(",", ":")).encode()
