"""From what a user asks for to the spec of a run: settings of the method, and what makes two requests the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from explorer.errors import SettingsError
from explorer.jobs.planning import Request, plan
from explorer.store import key_of


def method_of(**request: Any) -> dict[str, Any]:
    return dict(plan(Request("wine", **request)).method)


def test_settings_are_part_of_the_spec() -> None:
    assert method_of(settings={"damping": "0.5"}) == {"name": "last-layer", "settings": {"damping": 0.5}}
    assert method_of(damping=0.5) == method_of(settings={"damping": 0.5})
    assert json.loads(json.dumps(method_of(damping=0.5))) == method_of(damping=0.5)


def test_a_setting_s_default_leads_to_the_same_run() -> None:
    plain = key_of(plan(Request("wine")))
    assert key_of(plan(Request("wine", settings={"damping": "auto"}))) == plain
    assert key_of(plan(Request("wine", settings={"damping": "1"}))) != plain
    assert key_of(plan(Request("wine", method="gradient-dot"))) != plain


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"settings": {"rank": "3"}}, "Expected settings of last-layer out of damping; found rank"),
        ({"settings": {"damping": "x"}}, "Expected damping to be a number or auto; found 'x'"),
        ({"settings": {"damping": "1"}, "damping": 2.0}, "Expected damping once"),
        ({"damping": -1.0}, "Expected damping >= 0 and finite; found -1.0"),
        (
            {"method": "gradient-dot", "damping": 1.0},
            "Expected settings of gradient-dot out of none; found --damping, which is for last-layer",
        ),
        ({"layers": "head"}, "Expected settings of last-layer out of damping; found --layers"),
        ({"method": "magic"}, "found 'magic'"),
        (
            {"method": "two-stage", "settings": {"proximal": "0.1"}},
            "found two-stage, which needs a pretrained model and its",
        ),
        ({"method": "relative", "settings": {"of": "two-stage"}}, "Runs hold one training: use explorer.explain("),
    ],
)
def test_wrong_settings_are_said_before_any_worker_is_started(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        plan(Request("wine", **request_))
    assert words in str(refusal.value)
