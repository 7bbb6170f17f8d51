"""How do two methods explain the same prediction? Stored influence of two runs of one subject side by side, as a table.

Reads what the jobs of both runs stored and computes ranks of it, no influence; says which numbers are exact.
"""

from __future__ import annotations

import pandas as pd

from explorer import fidelity
from explorer.contracts import Target
from explorer.errors import RunError
from explorer.shown.table import table
from explorer.store import Run, read_json, subject_of

TOP = 20
"""Strongest examples of each sign of which it is counted how many two methods share."""


def compare(a: Run, b: Run, query: int, target: Target) -> pd.DataFrame:
    """All training examples of a test row with what two runs of one subject say of each, most helpful by `a` first.

    See `explorer.compare_methods` for the columns.

    Raises:
        RunError: the runs have different subjects, or one of them does not hold the influence on this prediction.
    """
    if subject_of(a) != subject_of(b):
        raise RunError(
            f"Expected two runs of one subject (same data, model, training and seed); found {a.key} and {b.key}, which "
            "differ in one of these. Compute one of them again with `explorer run --method ...` and nothing else changed."
        )
    first, second = table(a, query, target), table(b, query, target).set_index("row")
    beside = second.loc[first["row"]].reset_index()
    made = first[["row", "id", "label"]].copy()
    for side, part in (("a", first), ("b", beside)):
        made[f"influence_{side}"] = part["influence"].to_numpy()
        made[f"exact_{side}"] = part["exact"].to_numpy()
        made[f"rank_{side}"] = fidelity.ranks(part["influence"].to_numpy())
    made.attrs.update(_evidence(a, b, query, target))
    return made


def _evidence(a: Run, b: Run, query: int, target: Target) -> dict[str, object]:
    rows, tops = [run.row(query, target) for run in (a, b)], [run.top(query, target) for run in (a, b)]
    levels = [row.values[None] for row in rows if row is not None]
    helpful, harmful = (
        [getattr(top, side)[None, :TOP] for top in tops if top is not None] for side in ("towards", "away")
    )
    return {
        "methods": [str(run.spec["method"]["name"]) for run in (a, b)],
        "units": [str(read_json(run.path / "fitted.json")["unit"]) for run in (a, b)],
        "target": target,
        "rank_agreement": float(fidelity.rank_agreement(levels[0], levels[1])[0]),
        "shared_helpful": float(fidelity.shared(helpful[0], helpful[1])[0]),
        "shared_harmful": float(fidelity.shared(harmful[0], harmful[1])[0]),
    }
