"""Which training examples did retraining show to be memorized? Read from the counts that a run keeps of its subset models.

The flag of `explorer.memorization.Estimate`: a measurement, unlike the suspect score, which a run's own training gives for nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from explorer.memorization.subsets import FEWEST, Tally
from explorer.store import Run
from explorer.store.files import member

TALLY = "subset-tally.safetensors"
"""The file of counts, grown block by block."""
COUNTS = ("inside", "right_in", "right_out")


def retrained(run: Run) -> NDArray[np.bool_] | None:
    """Whether each training example is memorized by the models counted so far, `[train]`; None before `FEWEST` models.

    Reads 12 bytes an example; what the models said of test examples is left in the file.
    """
    file = run.path / TALLY
    if not file.is_file() or int((models := member(file, "models"))[0]) < FEWEST:
        return None
    counts = {name: member(file, name) for name in COUNTS}
    settings = {name: member(file, name) for name in ("ratio", "seed")}
    train = len(counts["inside"])
    nobody = {"right": np.zeros(0, dtype=np.int32), "right_with": np.zeros((0, train), dtype=np.int32)}
    return Tally.restored({"models": models, **counts, **settings, **nobody}).estimate().flagged
