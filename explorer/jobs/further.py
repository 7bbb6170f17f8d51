"""What is asked of a run beyond its scores, and is not answered yet? The stages that come after all others, in their order.

Looks at requests and answers; `explorer.jobs.further_stages` does the work. Loads nothing heavy.
"""

from __future__ import annotations

from explorer.jobs import checks, cleaning, laboratory, remedies, signs, subsets
from explorer.store import Run

KINDS = {
    checks.STAGE: checks.pending,
    signs.STAGE: signs.pending,
    laboratory.STAGE: laboratory.pending,
    subsets.STAGE: subsets.pending,
    remedies.STAGE: remedies.pending,
    cleaning.STAGE: cleaning.pending,
}
"""For each stage, whether there is something to do for it: what is quick comes first."""


def pending(run: Run) -> tuple[str, ...]:
    """Names of the stages that have something to do, in their order."""
    return tuple(name for name, waiting in KINDS.items() if waiting(run))
