"""Settings by name and type: what a user types or passes reaches the method, or a sentence comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from explorer import influence
from explorer.contracts import Fitted, Progress, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import METHODS
from explorer.jobs import settings


@dataclass(frozen=True)
class Toy:
    """Does nothing, with one setting of each kind.

    `ridge` is λ >= 0. None leaves it to the method. `steps` counts; `exact` turns the shortcut off. What is said between
    is no setting's. `form` is one of two. `layers` names some of them.
    """

    ridge: float | None = None
    steps: int = 10
    exact: bool = True
    form: Literal["theta", "loss"] = "theta"
    layers: Sequence[str] | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Mapping[str, Any] | None = None
    label: str = "a"
    either: int | Literal["all"] = 4
    name: ClassVar[str] = "toy"

    def __post_init__(self) -> None:
        if self.ridge is not None and self.ridge < 0:
            raise SettingsError(f"Expected ridge >= 0; found {self.ridge}.")

    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        raise NotImplementedError

    def restore(self, subject: Subject, tensors: Mapping[str, Any], stats: Mapping[str, Any]) -> Fitted:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(influence.METHODS, "toy", Toy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("ridge", "1e-3", 0.001),
        ("steps", "7", 7),
        ("exact", "no", False),
        ("exact", "False", False),
        ("form", "loss", "loss"),
        ("layers", "body.0, head", ("body.0", "head")),
        ("sizes", "3,4", (3, 4)),
        ("sizes", "3", (3,)),
        ("inner", '{"damping": 0.1}', {"damping": 0.1}),
        ("label", "auto", "auto"),
        ("label", "3", "3"),
        ("either", "all", "all"),
        ("either", "9", 9),
    ],
)
def test_what_is_typed_is_read_by_the_field_s_type(name: str, typed: str, value: object) -> None:
    method, kept = settings.checked("toy", {name: typed})
    assert getattr(method, name) == value
    assert kept == {name: value}
    assert type(getattr(method, name)) is type(value)


@pytest.mark.parametrize("word", ["auto", "None", "AUTO"])
def test_auto_leaves_an_optional_setting_to_the_method(word: str) -> None:
    method, kept = settings.checked("toy", {"ridge": word, "layers": word})
    assert method == Toy()
    assert kept == {}


def test_a_default_said_aloud_is_the_same_request() -> None:
    assert settings.checked("toy", {"steps": "10", "exact": "yes", "sizes": "1,2"})[1] == {}
    assert settings.checked("toy", {"steps": 10, "sizes": [1, 2]})[1] == {}


def test_values_from_python_keep_their_type() -> None:
    method, kept = settings.checked(
        "toy", {"ridge": 2, "sizes": [5, 6], "layers": ["a"], "exact": False, "inner": {"a": 1}}
    )
    assert (method.ridge, method.sizes, method.layers) == (2.0, (5, 6), ("a",))  # type: ignore[attr-defined]
    assert kept == {"ridge": 2.0, "sizes": (5, 6), "layers": ("a",), "exact": False, "inner": {"a": 1}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ridge": "much"}, "Expected ridge to be a number or auto; found 'much'. Write for example ridge=0.1"),
        ({"ridge": "nan"}, "found 'nan'"),
        ({"ridge": "inf"}, "found 'inf'"),
        ({"ridge": True}, "found True"),
        ({"ridge": "-1"}, "Expected ridge >= 0; found -1.0"),
        ({"steps": "1.5"}, "Expected steps to be a whole number; found '1.5'"),
        ({"steps": "auto"}, "Expected steps to be a whole number; found 'auto'"),
        ({"steps": 1.5}, "found 1.5"),
        ({"steps": ""}, "found an empty value"),
        ({"exact": "maybe"}, "Expected exact to be true or false; found 'maybe'. Write for example exact=true"),
        ({"form": "phi"}, "Expected form to be one of theta, loss; found 'phi'"),
        ({"layers": "a,,b"}, "Expected layers to be names separated by commas or auto; found 'a,,b'"),
        ({"layers": ""}, "layers=layer1,layer2"),
        ({"inner": "[1]"}, "Expected inner to be a JSON object"),
        ({"inner": "{"}, "Expected inner to be a JSON object"),
        ({"label": 3}, "Expected label to be text; found 3"),
        ({"depth": "1"}, "found depth. Leave these out"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        settings.checked("toy", given)
    assert words in str(refusal.value)


def test_an_unknown_method_names_those_there_are() -> None:
    for act in (settings.describe, lambda name: settings.checked(name, {})):
        with pytest.raises(SettingsError, match=r"Expected a method out of last-layer, .*; found 'magic'"):
            act("magic")


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert settings.from_words(["a=1", "b-c= x=y "]) == {"a": "1", "b_c": "x=y"}
    for wrong, words in ((["a"], "found 'a'"), (["=1"], "found '=1'"), (["a=1", "a=2"], "Expected the setting a once")):
        with pytest.raises(SettingsError, match=words):
            settings.from_words(wrong)


def test_shortcuts_stand_for_settings_of_their_name() -> None:
    assert settings.with_shortcuts("toy", {"steps": "3"}, {"ridge": 0.0, "layers": None}) == {
        "steps": "3",
        "ridge": 0.0,
    }
    with pytest.raises(SettingsError, match=r"found --layers a beside the setting layers=b"):
        settings.with_shortcuts("toy", {"layers": "b"}, {"layers": "a"})
    with pytest.raises(
        SettingsError, match=r"Expected settings of last-layer out of damping; found --layers, which is for .*toy"
    ):
        settings.with_shortcuts("last-layer", {}, {"layers": "a"})


def test_a_method_is_described_by_its_docstrings_and_fields() -> None:
    found = settings.describe("toy")
    assert found.summary == "Does nothing, with one setting of each kind."
    assert (
        found.question
        == "Settings by name and type: what a user types or passes reaches the method, or a sentence comes back."
    )
    by_name = {one.name: one for one in found.settings}
    assert list(by_name) == ["ridge", "steps", "exact", "form", "layers", "sizes", "inner", "label", "either"]
    assert {name: one.default for name, one in by_name.items()} == {
        "ridge": "auto", "steps": "10", "exact": "true", "form": "theta", "layers": "auto", "sizes": "1,2", "inner": "auto",
        "label": "a", "either": "4",
    }  # fmt: skip
    assert by_name["ridge"].help == "`ridge` is λ >= 0. None leaves it to the method."
    assert by_name["form"].help == "`form` is one of two."
    assert by_name["label"].help == ""
    assert by_name["exact"].choices == ("true", "false")
    assert by_name["form"].choices == ("theta", "loss")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_defaults_as_typed(name: str) -> None:
    found = settings.describe(name)
    assert found.summary
    assert found.question
    method, kept = settings.checked(name, {one.name: one.default for one in found.settings if one.default})
    assert method == METHODS[name]()
    assert kept == {}
