"""Can this be the user's own model, and can it be read without running anything they did not name?

Weights come from safetensors or weights-only checkpoints, architectures from code named on the command line, and
a model is checked before it is explained. Nothing here trains, and no pickled object is ever rebuilt.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from explorer.errors import ModelError

SAFETENSORS = (".safetensors",)
CHECKPOINTS = (".pt", ".pth", ".th")
NESTED = ("state_dict", "model")
"""Names under which training scripts put the state dict inside a checkpoint."""

DATA_PARALLEL = "module."
"""What `nn.DataParallel` puts before every name."""

NAMED_AT_MOST = 4
"""How many names an error lists before it counts the rest."""

ROUNDING = 1e-4
"""How far two passes may differ, relative to the largest output: float32 sums in another order stay below 1e-5."""


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU, without the prefix of data-parallel training.

    Reads .safetensors, and .pt, .pth or .th by `torch.load(weights_only=True)`; a dict nested under 'state_dict'
    or 'model' is taken out. Raises `ModelError` for a missing or unreadable file, anything pickled besides plain
    tensors, and NaN or infinite weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"Expected a weights file; found nothing at {path}. Check the path.")
    if path.suffix not in SAFETENSORS + CHECKPOINTS:
        raise ModelError(
            f"Expected weights in {', '.join(SAFETENSORS + CHECKPOINTS)}; found {path.name!r}. "
            "Save them with safetensors.torch.save_file(model.state_dict(), ...)."
        )
    found = _read_safetensors(path) if path.suffix in SAFETENSORS else _read_checkpoint(path)
    return _checked_weights(_flat(found), path.name)


def load_model(
    factory: str | None, weights: str | Path | None, built: nn.Module | None = None, *, seed: int = 0
) -> nn.Module:
    """The model made by `factory`, or `built`, with `weights` in it if given, in evaluation mode.

    `factory` is "path/to/file.py:function" or "package.module:function": code that the user named, called with
    no arguments. Its random initialization is drawn from `seed`. Raises `ModelError`.
    """
    if (factory is None) == (built is None):
        given = "neither" if factory is None else "both"
        raise ModelError(f"Expected either a model factory or a reference model; found {given}. Give one of them.")
    model = built if factory is None else _call_factory(factory, seed)
    assert model is not None
    if weights is not None:
        apply_weights(model, load_weights(weights))
    return model.eval()


def apply_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `model`; names and shapes must match exactly, else `ModelError` and nothing changes."""
    have = model.state_dict()
    resized = [
        f"{name} is {list(weights[name].shape)}, the model has {list(have[name].shape)}"
        for name in have
        if name in weights and weights[name].shape != have[name].shape
    ]
    faults = {
        "missing": [name for name in have if name not in weights],
        "unexpected": [name for name in weights if name not in have],
        "of another shape": resized,
    }
    if any(faults.values()):
        found = "; ".join(f"{fault}: {_few(names)}" for fault, names in faults.items() if names)
        raise ModelError(
            f"Expected weights for the {len(have)} tensors of the model; found {found}. "
            "Give the factory that these weights were trained with."
        )
    model.load_state_dict(dict(weights), strict=True)


def check_model(model: nn.Module, example_batch: Tensor, n_outputs: int) -> None:
    """Proves on one batch that the model can be explained, and leaves it in evaluation mode.

    Outputs must be finite, `[b, n_outputs]` (classes, or 1 for regression), the same in two passes (no dropout or
    other randomness) and the same for half the batch (no statistics across examples). Raises `ModelError`.
    """
    model.eval()
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"Expected every module in evaluation mode after model.eval(); found in training mode: {_few(training)}. "
            "Let their train() method set the mode."
        )
    half = (len(example_batch) + 1) // 2
    with torch.random.fork_rng(devices=[]):
        first, again = (_outputs(model, example_batch, n_outputs) for _ in range(2))
        alone = _outputs(model, example_batch[:half], n_outputs)
    if not _agree(first, again):
        raise ModelError(
            "Expected two passes over the same inputs to agree; found different outputs. "
            "Take dropout or other randomness out of the model's forward."
        )
    if not _agree(first[:half], alone):
        raise ModelError(
            "Expected the output of an example not to depend on the rest of its batch; found that it does. "
            "Use stored statistics in batch norm (track_running_stats=True) or another normalization."
        )


def as_model_input(model: nn.Module, inputs: Tensor) -> Tensor:
    """`inputs` on the model's device and, unless they are whole numbers, in its floating type."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return inputs
    return inputs.to(device=parameter.device, dtype=parameter.dtype if inputs.is_floating_point() else None)


def weights_key(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of the state dict: equal keys mean equal weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"Expected a whole safetensors file; found in {path.name}: {error}. Save it again.") from error


def _read_checkpoint(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # said of files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"Expected only tensors in {path.name}; found a pickled object, which could run code when read, or no "
            "checkpoint at all. Save the weights alone: torch.save(model.state_dict(), ...) or safetensors."
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise ModelError(
            f"Expected a checkpoint written by torch.save in {path.name}; found {type(error).__name__}: "
            f"{_first_line(error)} Save it again with torch.save(model.state_dict(), ...)."
        ) from error


def _flat(found: Any) -> Any:
    """The state dict inside a checkpoint, without the prefix if all of its names have it."""
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if isinstance(found, Mapping) and found and all(str(name).startswith(DATA_PARALLEL) for name in found):
        found = {str(name).removeprefix(DATA_PARALLEL): tensor for name, tensor in found.items()}
    return found


def _checked_weights(found: Any, file: str) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not found:
        what = "an empty dict" if isinstance(found, Mapping) else f"an object of type {type(found).__name__}"
        raise ModelError(f"Expected a dict of named tensors in {file}; found {what}. Save model.state_dict().")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_dense(tensor):
            kind = f"{tensor.dtype} tensor ({tensor.layout})" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ModelError(
                f"Expected named dense tensors in {file}; found {name!r} of type {kind}. Save model.state_dict() alone."
            )
        bad = 0 if tensor.is_complex() or not tensor.is_floating_point() else int((~tensor.float().isfinite()).sum())
        if bad:
            raise ModelError(
                f"Expected finite weights in {file}; found {bad} of {tensor.numel()} values NaN or infinite in "
                f"{name!r}. Take a checkpoint from before the training diverged."
            )
    return {name: tensor.detach().contiguous() for name, tensor in found.items()}


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized


def _call_factory(factory: str, seed: int) -> nn.Module:
    function = _find_factory(factory)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = function()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Expected {factory} to return a model when called with no arguments; it raised "
            f"{type(error).__name__}: {_first_line(error)} Mend the function."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Expected {factory} to return a torch.nn.Module; found {type(model).__name__}. Return the model itself."
        )
    return model


def _find_factory(factory: str) -> Callable[[], Any]:
    place, _, name = factory.rpartition(":")
    if not place or not name.isidentifier():
        raise ModelError(
            f"Expected a factory 'path/to/file.py:function' or 'package.module:function'; found {factory!r}. "
            "Name the file and the function."
        )
    try:
        module = _run_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Expected to import {place}; it raised {type(error).__name__}: {_first_line(error)} "
            "Check the name and the code at the top of the file."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        found = "no such name" if function is None else f"an object of type {type(function).__name__}"
        raise ModelError(f"Expected a function {name!r} in {place}; found {found}. Check the name after the colon.")
    return function  # type: ignore[no-any-return]


def _run_file(path: Path) -> ModuleType:
    """Runs a Python file under a name of its own; files beside it can be imported meanwhile."""
    if not path.is_file():
        raise ModelError(f"Expected a Python file; found nothing at {path}. Check the path before the colon.")
    path = path.resolve()
    name = f"explorer_factory_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _outputs(model: nn.Module, batch: Tensor, n_outputs: int) -> Tensor:
    try:
        with torch.no_grad():
            outputs = model(as_model_input(model, batch))
    except Exception as error:
        raise ModelError(
            f"Expected the model to take inputs of shape {list(batch.shape)}; it raised {type(error).__name__}: "
            f"{_first_line(error)} Give inputs and model of the same shape."
        ) from error
    expected = f"Expected outputs of shape [{len(batch)}, {n_outputs}]"
    if not isinstance(outputs, Tensor):
        raise ModelError(f"{expected}; found {type(outputs).__name__}. Let forward return one tensor of raw outputs.")
    if outputs.shape != (len(batch), n_outputs):
        raise ModelError(
            f"{expected} ({'one per class' if n_outputs > 1 else 'one value'}); found {list(outputs.shape)}. "
            "Give the model the data's number of outputs, one row per example."
        )
    if not outputs.isfinite().all():
        raise ModelError(
            f"Expected finite outputs; found {int((~outputs.isfinite()).sum())} of {outputs.numel()} NaN or infinite. "
            "Check the weights and the scale of the inputs."
        )
    return outputs


def _agree(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= ROUNDING * a.abs().max())


def _few(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(name or "the model itself" for name in names[:NAMED_AT_MOST]) + (f" (+{rest})" if rest > 0 else "")


def _first_line(error: BaseException) -> str:
    line = (str(error) or "no message").splitlines()[0][:200]
    return line if line.endswith((".", "!", "?")) else line + "."
