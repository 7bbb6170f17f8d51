"""Which training examples made the model say that? `explain` answers with a table, `show` with a page; `table` gives what the
page of a finished run shows, `query` what it does not store.

Influence is signed one way everywhere: positive = helpful, removing the example would make the answer worse.
"""

from explorer.api import compare_methods, explain, open_run, query, show, table

__version__ = "0.1.0"
__all__ = ["__version__", "compare_methods", "explain", "open_run", "query", "show", "table"]
