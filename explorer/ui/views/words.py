"""How is a number or a text written on the screen? Signed influence, shares, percentages; untrusted text made safe."""

from __future__ import annotations

import html
import math
import re

TOWARDS, AWAY = "▲", "▼"
"""Shapes of the two signs: never told by color alone."""


def safe(text: object) -> str:
    """Text from data, fit for HTML."""
    return html.escape(str(text), quote=True)


def as_markdown(text: object) -> str:
    """Text from data, fit for Markdown: as it stands, unable to format anything or fetch a picture."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#!|~$:" else c for c in str(text))


def beginning(text: str, most: int) -> str:
    """At most so many characters of a text, the first ones."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def ending(text: str, most: int) -> str:
    """At most so many characters of a text, the last ones."""
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :].lstrip()}"


def signed(value: float) -> str:
    """Influence with its sign and three significant digits; a true minus."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "unknown"
    return f"{'+' if value > 0 else '−'}{plain(abs(value))}"


def minus(text: str) -> str:
    """Text from a file with a true minus before its numbers, as everywhere on the screen."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", text)


def plain(value: float) -> str:
    """Three significant digits, powers of ten only where plain digits would be long."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    digits = str(int(exponent)).replace("-", "−")
    return f"{mantissa}×10<sup>{digits}</sup>"


def percent(share: float) -> str:
    """A share of one as a percentage: never 0 % or 100 % for what is neither."""
    if not math.isfinite(share):
        return "unknown"
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{share:.1%}".replace("%", " %").replace(".0 ", " ")


def duration(seconds: float) -> str:
    """Seconds in words a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
