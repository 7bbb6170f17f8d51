"""What does a label look like? The one place that turns a run's label or answer into words, whatever the run is for.

A class number becomes its name, a value of a regression a short number, the text of a sequence stays as it is. Escapes nothing:
words from data are made safe where they are put on a screen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from explorer.store import Meta


def named(values: Iterable[Any], meta: Meta) -> list[str]:
    """Labels or answers of a run in words, in the order given."""
    if meta.has_classes:
        return [meta.classes[int(value)] for value in values]
    if meta.task == "sequence":
        return [str(value) for value in values]
    return [f"{float(value):.4g}" for value in values]
