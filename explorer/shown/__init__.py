"""Which examples does the reader see? Filter and selection of the map, in the address, in the browser and in Python alike.

Reads what a job stored and computes no influence; knows no widgets, so that a line of Python gives what the page shows.
"""

from explorer.shown.again import again
from explorer.shown.filters import NO_CLASS, Filter
from explorer.shown.labels import named
from explorer.shown.methods import compare
from explorer.shown.retrained import retrained
from explorer.shown.selection import Selection, in_map_units
from explorer.shown.table import Words, prompts, shown, table

__all__ = [
    "NO_CLASS",
    "Filter",
    "Selection",
    "Words",
    "again",
    "compare",
    "in_map_units",
    "named",
    "prompts",
    "retrained",
    "shown",
    "table",
]
