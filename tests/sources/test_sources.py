"""Sources by name and by spec."""

import json
import subprocess
import sys

import numpy as np
import pytest

from explorer.errors import DataError, SettingsError
from explorer.sources import SOURCES, from_name, from_spec
from explorer.sources.array_file import ArrayFile
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.sources.tables import BreastCancer, Wine


@pytest.mark.parametrize(
    "source",
    [Digits(), BreastCancer(), Wine(), ArrayFile("/nowhere/x.npz", "ab12"), Planted(Wine(), 0.1, 0.0, 4)],
    ids=lambda source: source.kind,
)
def test_a_spec_survives_json_and_leads_back_to_an_equal_source(source):
    spec = json.loads(json.dumps(source.spec()))
    assert from_spec(spec) == source
    assert SOURCES[spec["kind"]] is type(source)


def test_every_kind_is_listed_under_its_own_name():
    assert sorted(SOURCES) == ["breast-cancer", "digits", "jsonl", "npz", "planted", "wine"]
    assert all(source.kind == kind for kind, source in SOURCES.items())


def test_the_words_of_the_command_line(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=[[1.0]])
    assert [from_name(name) for name in ("digits", "breast-cancer", "wine")] == [Digits(), BreastCancer(), Wine()]
    assert from_name(str(path)) == ArrayFile(str(path))


@pytest.mark.parametrize("text", ["mnist", "planted", "data.csv", ""])
def test_other_words(text):
    with pytest.raises(
        SettingsError, match=f"digits, breast-cancer, wine or a path ending in .npz or .jsonl; found '{text}'"
    ):
        from_name(text)


def test_a_path_that_is_not_there():
    with pytest.raises(DataError, match="No such file"):
        from_name("/nowhere/x.npz")


@pytest.mark.parametrize("spec", [{"kind": "mnist"}, {}, {"kind": "planted", "source": {"kind": "mnist"}}])
def test_an_unknown_kind_lists_the_known_ones(spec):
    with pytest.raises(SettingsError, match="among digits, breast-cancer, wine, npz, jsonl, planted; found"):
        from_spec(spec)


def test_settings_that_do_not_belong():
    with pytest.raises(SettingsError, match="settings none for the source 'digits'; found unknown: size"):
        from_spec({"kind": "digits", "size": 3})
    with pytest.raises(SettingsError, match=r"settings path, sha256 .* missing: path"):
        from_spec({"kind": "npz"})
    with pytest.raises(SettingsError, match="as a mapping with `kind`; found 'digits'"):
        from_spec({"kind": "planted", "source": "digits"})


def test_naming_sources_loads_nothing_heavy():
    script = "import sys, explorer.sources; print([m for m in ('torch', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
