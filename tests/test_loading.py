"""explorer.loading: what is read, what is refused and why, and what a model must prove."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from explorer.errors import ModelError
from explorer.loading import apply_weights, check_model, load_model, load_weights, weights_key
from explorer.models import build

NETWORK = (
    "import torch\nfrom torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))\n"
)


@pytest.fixture
def model():
    return build("mlp", (3,), 2, seed=0)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- weights


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "data_parallel", "both"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_checkpoints_come_back_as_the_plain_state_dict(model, tmp_path, wrap, suffix):
    weights = model.state_dict()
    stored = {
        "plain": weights,
        "state_dict": {"state_dict": weights, "epoch": 3},
        "model": {"model": weights, "best": 0.9},
        "data_parallel": nn.DataParallel(model).state_dict(),
        "both": {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}},
    }[wrap]
    torch.save(stored, tmp_path / f"w{suffix}")
    assert same(load_weights(tmp_path / f"w{suffix}"), weights)


def test_safetensors_come_back(model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert same(load_weights(str(tmp_path / "w.safetensors")), model.state_dict())


def test_a_name_that_only_some_tensors_carry_is_not_a_prefix(tmp_path):
    weights = {"module.weight": torch.ones(2), "head.weight": torch.zeros(2)}
    torch.save(weights, tmp_path / "w.pt")
    assert same(load_weights(tmp_path / "w.pt"), weights)


class Bomb:
    """A pickle that leaves a file behind when it is rebuilt."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_is_refused_and_not_run(tmp_path, how):
    fired = tmp_path / "fired"
    file = tmp_path / "w.pt"
    if how == "torch":
        torch.save({"weight": torch.ones(2), "extra": Bomb(fired)}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(fired)))
    with pytest.raises(ModelError, match=r"Expected only tensors in w.pt; found a pickled object.*Save the weights"):
        load_weights(file)
    assert not fired.exists()


def test_a_whole_model_is_refused(model, tmp_path):
    torch.save(model, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"Save the weights alone: torch.save\(model.state_dict\(\)"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_broken_files_are_refused_by_name(tmp_path, content, suffix):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ModelError, match=rf"Expected .* w{suffix}|found in w{suffix}"):
        load_weights(tmp_path / f"w{suffix}")


def test_a_truncated_checkpoint_is_refused(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"w\.pt"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(tmp_path, value, dtype):
    weights = {"good": torch.ones(3, dtype=dtype), "bad": torch.tensor([1, value, value], dtype=dtype)}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"2 of 3 values NaN or infinite in 'bad'"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ({}, "an empty dict"),
        ([1, 2], "type list"),
        ({"epoch": 3}, "'epoch' of type int"),
        ({"w": torch.eye(2).to_sparse()}, "torch.sparse_coo"),
        ({7: torch.ones(1)}, "found 7 of type"),
    ],
)
def test_what_is_no_state_dict_is_described(tmp_path, stored, found):
    torch.save(stored, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=found):
        load_weights(tmp_path / "w.pt")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match="found nothing at"):
        load_weights(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="found nothing at"):
        load_weights(tmp_path)
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"Expected weights in .safetensors, .pt, .pth, .th; found 'w.h5'"):
        load_weights(tmp_path / "w.h5")


# --- into a model


def test_weights_are_copied_into_the_model(model):
    other = build("mlp", (3,), 2, seed=1)
    apply_weights(model, other.state_dict())
    assert same(model.state_dict(), other.state_dict())


def test_every_mismatch_is_listed_and_nothing_changes(model):
    before = copy.deepcopy(model.state_dict())
    weights = {name: tensor + 1 for name, tensor in before.items()}
    weights["1.weight"] = torch.zeros(128, 9)
    del weights["3.bias"]
    weights |= {f"extra{i}": torch.zeros(1) for i in range(6)}
    with pytest.raises(ModelError) as raised:
        apply_weights(model, weights)
    assert "for the 6 tensors" in str(raised.value)
    assert "missing: 3.bias;" in str(raised.value)
    assert "unexpected: extra0, extra1, extra2, extra3 (+2)" in str(raised.value)
    assert "1.weight is [128, 9], the model has [128, 3]" in str(raised.value)
    assert same(model.state_dict(), before)


# --- the user's code


def test_a_factory_in_a_file_makes_the_model_and_gets_the_weights(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    weights = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict()
    torch.save(weights, tmp_path / "w.pt")
    path = list(sys.path)
    made = load_model(f"{tmp_path}/net.py:make", tmp_path / "w.pt", None)
    assert same(made.state_dict(), weights)
    assert not made.training
    assert sys.path == path


def test_a_factory_may_import_the_file_beside_it_and_define_dataclasses(tmp_path):
    (tmp_path / "beside_the_factory.py").write_text("WIDTH = 7\n")
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\nfrom torch import nn\n"
        "from beside_the_factory import WIDTH\n"
        "@dataclass\nclass Size:\n    width: int = WIDTH\n"
        "def make():\n    return nn.Linear(Size().width, 2)\n"
    )
    try:
        assert load_model(f"{tmp_path}/net.py:make", None).weight.shape == (2, 7)
    finally:
        sys.modules.pop("beside_the_factory", None)


def test_a_factory_in_a_module_is_found_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "influence_test_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    try:
        assert load_model("influence_test_net:make", None)[1].weight.shape == (2, 4)
    finally:
        sys.modules.pop("influence_test_net", None)


def test_a_factory_is_seeded_without_touching_the_global_state(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    before = torch.get_rng_state()
    keys = [weights_key(load_model(f"{tmp_path}/net.py:make", None, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("code", "name", "found"),
    [
        ("def make():\n    return 3\n", "make", "return a torch.nn.Module; found int"),
        ("def make(width):\n    return width\n", "make", "raised TypeError: .*missing 1 required positional"),
        ("def make():\n    raise SystemExit(0)\n", "make", "raised SystemExit"),
        ("def make():\n    return None.x\n", "make", "raised AttributeError"),
        ("make = 3\n", "make", "Expected a function 'make' in .*; found an object of type int"),
        ("", "make", "found no such name"),
        ("1/0\n", "make", "Expected to import .*net.py; it raised ZeroDivisionError: division by zero"),
        ("def make(:\n", "make", "raised SyntaxError"),
        ("import no_such_package_anywhere\n", "make", "raised ModuleNotFoundError"),
        ("", "a b", "found '.*net.py:a b'"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(tmp_path, code, name, found):
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(ModelError, match=found):
        load_model(f"{tmp_path}/net.py:{name}", None)


@pytest.mark.parametrize("factory", ["net.py", "make", ":make", "no/such/file.py:make", "no_such_module_here:make"])
def test_a_factory_that_is_not_there_is_refused(factory):
    with pytest.raises(ModelError):
        load_model(factory, None)


def test_exactly_one_of_factory_and_reference_is_wanted(model):
    assert load_model(None, None, model.train()) is model
    assert not model.training
    with pytest.raises(ModelError, match="found neither"):
        load_model(None, None)
    with pytest.raises(ModelError, match="found both"):
        load_model("net.py:make", None, model)


# --- the check


class Wrapped(nn.Module):
    """A linear model whose output is passed through `change`."""

    def __init__(self, change):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.change = change

    def forward(self, x):
        return self.change(self.linear(x))


class StaysInTraining(nn.Dropout):
    def train(self, mode=True):
        self.training = True
        return self


X = torch.linspace(-1, 1, 18).reshape(6, 3)


@pytest.mark.parametrize("modules", [[], [nn.Dropout(0.5)], [nn.BatchNorm1d(3)], [nn.LayerNorm(3)]])
def test_layers_that_are_steady_in_evaluation_mode_pass(modules):
    model = nn.Sequential(*modules, nn.Linear(3, 2)).train()
    check_model(model, X, 2)
    assert not any(module.training for module in model.modules())


def test_the_check_leaves_weights_and_the_global_state_alone(model):
    key, state = weights_key(model), torch.get_rng_state()
    check_model(model, X, 2)
    assert weights_key(model) == key
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("bad", "outputs", "found"),
    [
        (Wrapped(lambda y: y), 3, r"Expected outputs of shape \[6, 3\] .* found \[6, 2\]"),
        (Wrapped(lambda y: y[:, 0]), 1, r"shape \[6, 1\] \(one value\); found \[6\]"),
        (Wrapped(lambda y: y[:3]), 2, r"shape \[6, 2\] \(one per class\); found \[3, 2\]"),
        (Wrapped(lambda y: (y, y)), 2, "found tuple"),
        (Wrapped(lambda y: y / 0), 2, "found 12 of 12 NaN or infinite"),
        (Wrapped(lambda y: y + torch.randn_like(y)), 2, "two passes .* different outputs"),
        (Wrapped(lambda y: nn.functional.dropout(y, 0.5)), 2, "two passes .* different outputs"),
        (Wrapped(lambda y: y - y.mean(0)), 2, "not to depend on the rest of its batch"),
        (nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)), 2, "rest of its batch"),
        (nn.Sequential(StaysInTraining(0.5), nn.Linear(3, 2)), 2, "found in training mode: 0"),
        (nn.Linear(4, 2), 2, r"inputs of shape \[6, 3\]; it raised RuntimeError: mat1"),
    ],
)
def test_a_model_that_cannot_be_explained_is_refused(bad, outputs, found):
    with pytest.raises(ModelError, match=found):
        check_model(bad, X, outputs)


# --- the key


def test_the_key_follows_names_types_shapes_and_every_value():
    linear = nn.Linear(2, 3)
    key = weights_key(linear)
    twin = nn.Linear(2, 3)
    twin.load_state_dict(linear.state_dict())
    assert weights_key(twin) == key
    assert weights_key(nn.Sequential(twin)) != key
    assert weights_key(copy.deepcopy(twin).double()) != key
    with torch.no_grad():
        twin.bias[2].nextafter_(torch.tensor(9.0))
    assert weights_key(twin) != key


def test_the_key_takes_counters_and_half_precision():
    assert len({weights_key(nn.BatchNorm1d(2)), weights_key(nn.BatchNorm1d(2).bfloat16())}) == 2


# --- a real stranger's model

LENET = """
from collections import OrderedDict as O
from torch import nn

class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        conv = nn.Conv2d
        self.convnet = nn.Sequential(O(
            c1=conv(1, 6, 5), r1=nn.ReLU(), s2=nn.MaxPool2d(2), c3=conv(6, 16, 5), r3=nn.ReLU(), s4=nn.MaxPool2d(2),
            c5=conv(16, 120, 5), r5=nn.ReLU()))
        self.fc = nn.Sequential(O(f6=nn.Linear(120, 84), r6=nn.ReLU(), f7=nn.Linear(84, 10)))

    def forward(self, x):
        x = nn.functional.interpolate(x, size=(32, 32), mode="bilinear")  # the author resized 28x28, not padded
        return self.fc(self.convnet(x).flatten(1))
"""


def external(path):
    folder = os.environ.get("EXPLORER_DATA")
    if folder is None or not (Path(folder) / path).exists():
        pytest.skip(f"needs {path} in the shared data folder; set EXPLORER_DATA to it")
    return Path(folder) / path


@pytest.mark.external
def test_a_published_lenet_loads_and_reads_mnist(tmp_path):
    weights, mnist = external("checkpoints/mnist_lenet5/mnist_cnn.pt"), external("images/mnist.npz")
    (tmp_path / "lenet.py").write_text(LENET)
    model = load_model(f"{tmp_path}/lenet.py:LeNet", weights)
    with np.load(mnist, allow_pickle=False) as file:
        x, y = torch.tensor(file["x_test"]).unsqueeze(1) / 255, torch.tensor(file["y_test"])
    check_model(model, x[:16], 10)
    with torch.no_grad():
        accuracy = (torch.cat([model(part) for part in x.split(500)]).argmax(1) == y).double().mean()
    assert accuracy == pytest.approx(0.9883, abs=0.0005)  # measured; padding instead of resizing gives .9804


@pytest.mark.external
def test_a_published_data_parallel_checkpoint_equals_its_conversion():
    original, converted = (f"checkpoints/cifar10_resnet20/{f}" for f in ("resnet20-12fca82f.th", "model.safetensors"))
    assert same(load_weights(external(original)), load_weights(external(converted)))
