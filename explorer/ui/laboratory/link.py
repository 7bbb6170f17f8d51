"""Which part of the laboratory and which experiment does the address name? The link is the state.

What does not fit is left out in silence: the newest experiment is shown instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from explorer.store import Run
from explorer.ui import state

PART, EXPERIMENT = "part", "experiment"


def part(names: Sequence[str]) -> str:
    """The part that the address names, else the first."""
    said = state.address().get(PART, "")
    return next((name for name in names if name.lower() == said), names[0])


def place(keys: Sequence[str]) -> int:
    """Where the experiment that the address names stands among these; 0 where it is none of them."""
    said = state.address().get(EXPERIMENT, "")
    return next((at for at, key in enumerate(keys) if key == said), 0)


def write(run: Run, part: str = "", experiment: str = "") -> None:
    """Put them into the address; what is as on a first visit is not written."""
    optional = {PART: part.lower(), EXPERIMENT: experiment}
    state.write_address({"run": run.key} | {name: value for name, value in optional.items() if value})
