"""What can be set of a method, and what did the user mean? Settings by name, described and read by the fields' types.

Knows no method in particular: all comes from the dataclasses in `METHODS` and their docstrings. Fits nothing.
"""

from __future__ import annotations

import collections.abc
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin

from explorer import influence
from explorer.contracts import Method
from explorer.errors import SettingsError

UNSET = ("auto", "none")
"""Words for None, where a setting may be left to the method."""
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
EXAMPLES = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
"""How the value of a setting is asked for, by its type."""
_LISTS = (tuple, list, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


@dataclass(frozen=True)
class Setting:
    """One setting in words: its `name`, what `kind` of value it takes, its `default` as one would type it, and `help`.

    `choices` are all values there are, where they can be counted.
    """

    name: str
    kind: str
    default: str
    choices: tuple[str, ...] = ()
    help: str = ""


@dataclass(frozen=True)
class Description:
    """A method in words: the first line of its docstring, what question it answers, what it leaves out, and its settings.

    `python_only` methods need more than a run holds.
    """

    name: str
    summary: str
    question: str
    limits: str
    settings: tuple[Setting, ...]
    python_only: bool = False


def describe(name: str) -> Description:
    """The method of that name in words, from its docstrings and fields.

    Raises:
        SettingsError: the name is unknown.
    """
    cls = _class(name)
    summary, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    question, _, limits = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "").partition("\n\n")
    about = _flat(f"{summary}\n{rest}")
    known = _fields(cls)
    hints = _hints(cls)
    settings = tuple(
        Setting(
            field.name,
            _kind(hints[field.name]),
            _written(_default(field)),
            _choices(hints[field.name]),
            _about(field.name, about, tuple(known)),
        )
        for field in known.values()
    )
    alone = name in influence.OF_TWO_STAGES
    return Description(name, summary.strip(), _flat(question), _flat(limits), settings, alone)


def descriptions() -> list[Description]:
    """Every method in words, in the order of `METHODS`."""
    return [describe(name) for name in influence.METHODS]


def from_words(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` words as a mapping; what the values mean depends on the method.

    Raises:
        SettingsError: no `=`, no name before it, or one name twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SettingsError(f"Expected a setting as key=value; found {pair!r}. Write for example damping=0.01.")
        if name in found:
            raise SettingsError(
                f"Expected the setting {name} once; found {found[name]!r} and {value!r}. Leave out one."
            )
        found[name] = value.strip()
    return found


def checked(method: str, given: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    """The method with these settings, and those of them that differ from its defaults, ready for JSON.

    A text is read by the type of its setting ("0.1", "auto" for None, "a,b" for names); any other value must be of it.

    Raises:
        SettingsError: an unknown method or setting, a value of another kind, or one that the method refuses.
    """
    cls = _class(method)
    known, hints = _fields(cls), _hints(cls)
    wrong = sorted(set(given) - set(known))
    if wrong:
        raise SettingsError(
            f"Expected settings of {method} out of {', '.join(known) or 'none'}; found {', '.join(wrong)}. "
            "Leave these out, or choose another method: `explorer methods` lists them."
        )
    values = {name: _read(name, value, hints[name]) for name, value in given.items()}
    made = influence.method_from(method, values)
    return made, {name: value for name, value in values.items() if value != _default(known[name])}


def check_of_one_training(
    method: str, settings: Mapping[str, Any], pretrained: object = None, *, sequences: bool = False
) -> None:
    """See that what is asked has the stages that the method needs: one, or a `pretrained` one before it.

    Raises:
        SettingsError: two stages without a pretrained one, or a pretrained one that the method does not ask about.
    """
    stages = [name for name in influence.OF_TWO_STAGES if name in (method, settings.get("of"))]
    if stages and pretrained is None:
        raise SettingsError(
            f"Expected a method of one training; found {', '.join(stages)}, which needs a pretrained model and its "
            f'examples too. Runs hold one training: use explorer.explain(..., method="{method}", pretrained=(model, '
            "(inputs, targets))) from Python."
        )
    if pretrained is None:
        return
    if not stages:
        raise SettingsError(
            f"Expected no pretrained model for the method {method}; found one. Choose one of "
            f"{', '.join(influence.OF_TWO_STAGES)} to rank its examples, or leave it out."
        )
    if sequences:
        raise SettingsError(
            f"Expected one target an example for {method}; found sequences. Fit it to subjects of your own "
            "(explorer.influence.two_stage.TwoStage.over), or choose a method of one training."
        )
    if not isinstance(pretrained, tuple | list) or len(pretrained) != 2:
        raise SettingsError(
            f"Expected pretrained as (model, (inputs, targets)); found {type(pretrained).__name__}. Give the network before "
            "fine-tuning and what it was trained on."
        )


def with_shortcuts(
    method: str, settings: Mapping[str, Any], shortcuts: Mapping[str, Any], option: str = "--"
) -> dict[str, Any]:
    """`settings` and the `shortcuts` that are not None, as options of their own name.

    Raises:
        SettingsError: one is given in both ways, or is no setting of the method.
    """
    given = {name: value for name, value in shortcuts.items() if value is not None}
    known = _fields(_class(method))
    for name, value in given.items():
        if name in settings:
            raise SettingsError(
                f"Expected {name} once; found {option}{name} {value} beside the setting {name}={settings[name]}. Leave out one."
            )
        if name not in known:
            having = [other for other, cls in influence.METHODS.items() if name in _fields(cls)]
            raise SettingsError(
                f"Expected settings of {method} out of {', '.join(known) or 'none'}; found {option}{name}, which is for "
                f"{', '.join(having) or 'no method that there is'}. Leave it out, or choose another method."
            )
    return {**settings, **given}


def _class(method: str) -> type[Any]:
    if method not in influence.METHODS:
        raise SettingsError(
            f"Expected a method out of {', '.join(influence.METHODS)}; found {method!r}. Choose one of these."
        )
    found: type[Any] = influence.METHODS[method]
    return found


def _fields(cls: type[Any]) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(cls) if field.init}


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of the fields; names that a module imports only for type checkers are looked up where they come from."""
    return typing.get_type_hints(cls, localns={**vars(typing), **vars(collections.abc)})


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows, None aside."""
    union = get_origin(hint) in (Union, types.UnionType)
    return tuple(part for part in (get_args(hint) if union else (hint,)) if part is not type(None))


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _choices(hint: Any) -> tuple[str, ...]:
    first = _parts(hint)[0]
    if get_origin(first) is Literal:
        return (*(str(choice) for choice in get_args(first)), *(UNSET[:1] if _optional(hint) else ()))
    return ("true", "false", *(UNSET[:1] if _optional(hint) else ())) if first is bool else ()


def _kind(hint: Any) -> str:
    """What to type, in words."""
    words = [_kind_of(part) for part in _parts(hint)] + ([UNSET[0]] if _optional(hint) else [])
    return " or ".join(dict.fromkeys(words))


def _kind_of(part: Any) -> str:
    origin = get_origin(part) or part
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(part)))}"
    if origin in _LISTS:
        item = EXAMPLES.get(_item(part), "a value")
        return "names separated by commas" if item == "text" else f"{item}, or several separated by commas"
    if origin in _MAPPINGS:
        return "a JSON object"
    return EXAMPLES.get(origin, "JSON")


def _item(part: Any) -> Any:
    """Type of the elements of a list of names or numbers."""
    return next((one for one in get_args(part) if one is not Ellipsis), str)


def _read(name: str, value: Any, hint: Any) -> Any:
    """`value` as the first type of the hint that it can be.

    Raises:
        SettingsError: it can be none of them.
    """
    if _optional(hint) and (value is None or (isinstance(value, str) and value.lower() in UNSET)):
        return None
    empty = value is None or (value == "" and str not in _parts(hint))
    for part in () if empty else _parts(hint):
        try:
            return _as(part, value)
        except (ValueError, TypeError):
            continue
    what = "an empty value" if value == "" else repr(value)
    raise SettingsError(f"Expected {name} to be {_kind(hint)}; found {what}. Write for example {_example(name, hint)}.")


def _as(part: Any, value: Any) -> Any:
    """`value`, a text or not, as one type. Raises ValueError or TypeError where it is not of it."""
    origin = get_origin(part) or part
    if origin is Literal:
        return _one_of(get_args(part), value)
    if origin in _LISTS:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value)
        if not items or "" in items:
            raise ValueError(value)
        return tuple(_as(_item(part), item) for item in items)
    if origin in EXAMPLES:
        return _SCALARS[origin](value)
    found = json.loads(value) if isinstance(value, str) else value
    if origin in _MAPPINGS and not isinstance(found, Mapping):
        raise ValueError(value)
    json.dumps(found, allow_nan=False)  # settings are kept as JSON
    return found


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    raise ValueError(value)


def _number(value: Any) -> float:
    found = float(_not_bool(value))
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def _whole(value: Any) -> int:
    found = int(value) if isinstance(value, str) else _not_bool(value)
    if found != int(found):
        raise ValueError(value)
    return int(found)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError(value)
    return value


def _truth(value: Any) -> bool:
    word = str(value).lower()
    if word not in YES + NO:
        raise ValueError(value)
    return word in YES


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_SCALARS: dict[Any, Any] = {float: _number, int: _whole, bool: _truth, str: _text}


def _example(name: str, hint: Any) -> str:
    if choices := _choices(hint):
        return f"{name}={choices[0]}"
    first = _parts(hint)[0]
    example = {float: "0.1", int: "8", str: "a"}.get(first, "{}")
    return f"{name}={'layer1,layer2' if (get_origin(first) or first) in _LISTS and _item(first) is str else example}"


def _written(value: Any) -> str:
    """A default as one would type it."""
    if value is None:
        return UNSET[0]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _about(name: str, about: str, names: tuple[str, ...]) -> str:
    """What a docstring says of a setting: from the sentence that begins with its name to the next that begins with one."""
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z`\"(])", about)
    starts = [next((other for other in names if s.startswith(f"`{other}`")), None) for s in sentences]
    if name in starts:
        first = starts.index(name)
        last = next((k for k in range(first + 1, len(starts)) if starts[k] is not None), len(starts))
        return " ".join(sentences[first:last])
    return next((sentence for sentence in sentences if f"`{name}`" in sentence), "")
