"""What can go wrong through no fault of the program, one class a remedy.

Every message is one to three sentences: what was expected, what was found, what to do. The command line
prints the message and exits with 2; pages show it in place of the answer. Nothing here formats or prints.
"""

from __future__ import annotations


class ExplorerError(Exception):
    """A mistake or a limit that the user can do something about; the message says what."""


class DataError(ExplorerError):
    """The examples are not what was expected: mend the data file or the arguments."""


class ModelError(ExplorerError):
    """The model or its weights cannot be used as they are: mend the model, its factory or the weights file."""


class SettingsError(ExplorerError):
    """A setting is out of its range: choose another value."""


class RunError(ExplorerError):
    """A run is unknown, incomplete, or written by another format version: choose or recompute the run."""


class StorageError(ExplorerError):
    """The disk or a folder refused a write: free space or choose another folder. What was written stays whole."""


class ResourceError(ExplorerError):
    """Memory does not suffice, not even for the smallest block of work: ask for less, as the message says."""


class ServerError(ExplorerError):
    """The page cannot be served: choose another port."""


class Cancelled(Exception):  # noqa: N818 - a request that was obeyed, not an error
    """Raised by a progress callback to stop the work at the next block; not an error and never shown as one."""
