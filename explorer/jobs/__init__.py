"""Who does the long work, and how far is it? One worker process a run; alone joins methods to the store.

What needs torch (`pipeline`, `planning`, `query`, `answering`) is imported by who needs it, so that pages stay light.
"""

from explorer.jobs.process import cancel, sole_worker, start
from explorer.jobs.state import ACTIVE, JobState, read_state

__all__ = ["ACTIVE", "JobState", "cancel", "read_state", "sole_worker", "start"]
