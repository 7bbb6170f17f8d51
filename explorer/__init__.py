"""Which training examples made the model say that? `explain` answers with a table, `show` with a page; `table` gives what the
page of a finished run shows.

Influence is signed one way everywhere: positive = helpful, removing the example would make the answer worse.
"""

from explorer.api import explain, open_run, show, table

__version__ = "0.1.0"
__all__ = ["__version__", "explain", "open_run", "show", "table"]
