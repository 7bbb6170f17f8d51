"""How do rows of a run become clickable examples? Rows in, the plain data of `views.tiles` out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from explorer.store import Run
from explorer.ui import answers, load
from explorer.ui.views.card import Query
from explorer.ui.views.tiles import Item

VALUES = 3
"""Values shown of a table row, most unusual first."""


def training(run: Run, rows: Iterable[int]) -> list[Item]:
    """Training examples as clickable items, in the order given."""
    return [_training(run, int(row)) for row in rows]


def predictions(run: Run, rows: Iterable[int]) -> list[tuple[Item, Query]]:
    """Test predictions as clickable items with their cards, in the order given."""
    return [_prediction(run, int(row)) for row in rows]


def _training(run: Run, row: int) -> Item:
    known = answers.tile(run, row, 0.0, 1.0)
    marks = (
        (known.suspect, "suspect"),
        (known.memorized, "memorized"),
        (known.near_duplicate, "near-duplicate"),
        (bool(known.planted), known.planted),
    )
    return Item(
        kind="train",
        row=row,
        point=row,
        id=known.id,
        face=known.face,
        label=known.label,
        prediction=known.prediction,
        right=known.right if load.meta(run).has_outcomes else None,
        badges=tuple(word for there, word in marks if there),
    )


def _prediction(run: Run, row: int) -> tuple[Item, Query]:
    card = answers.query(run, row, "label")
    item = Item(
        kind="test",
        row=row,
        point=load.meta(run).train + row,
        id=card.id,
        face=replace(card.face, values=card.face.values[:VALUES]),
        label=card.label,
        prediction=card.prediction,
        right=not card.wrong if card.outcome else None,
    )
    return item, card
