"""What checks the shapes in annotations while tests run: beartype, but for functions that every call would make anew.

Decorating a nested function takes 4 ms, each time that the function around it is called: half the time of a small test.
"""

from typing import Any

from beartype import beartype


def checked(made: Any) -> Any:
    """The function or class with its annotations checked at every call, unless it is made within another function."""
    return made if "<locals>" in made.__qualname__ else beartype(made)
