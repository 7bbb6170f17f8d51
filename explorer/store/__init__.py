"""Where does a run live, and how is it read? Run directories: whole files, content-addressed, versioned.

Knows names and formats of files, not how their content was computed; never imports torch.
"""

from explorer.store.files import bundle, read_json, write_array, write_bundle, write_bytes, write_json, write_table
from explorer.store.places import create, find, key_of, list_runs, runs_root, same_subject, subject_of
from explorer.store.run import Meta, Row, Run, TopList

__all__ = [
    "Meta",
    "Row",
    "Run",
    "TopList",
    "bundle",
    "create",
    "find",
    "key_of",
    "list_runs",
    "read_json",
    "runs_root",
    "same_subject",
    "subject_of",
    "write_array",
    "write_bundle",
    "write_bytes",
    "write_json",
    "write_table",
]
