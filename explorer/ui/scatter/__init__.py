"""The map of examples and the list of predictions: two components of our own, and nothing but their doors.

Python says what to show and hears what was picked; points, influence and thumbnails go from the server's routes to
the browser without passing here. `bus.js` says how the two find each other on the page.
"""

from explorer.ui.scatter.doors import ListData, MapData, show, show_list

__all__ = ["ListData", "MapData", "show", "show_list"]
