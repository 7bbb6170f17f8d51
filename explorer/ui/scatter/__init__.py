"""The map of examples and the list of predictions: two components of our own, and nothing but their doors.

Python says what to show and hears what was picked; points, influence and thumbnails go from the server's routes to
the browser without passing here. `bus.js` says how the two find each other on the page.
"""

from explorer.ui.scatter.bar import BarData, Counts, counted, show_bar
from explorer.ui.scatter.doors import ListData, MapData, show, show_list
from explorer.ui.scatter.tiles import AnswerData, Section, show_answer, show_tiles

__all__ = [
    "AnswerData",
    "BarData",
    "Counts",
    "ListData",
    "MapData",
    "Section",
    "counted",
    "show",
    "show_answer",
    "show_bar",
    "show_list",
    "show_tiles",
]
