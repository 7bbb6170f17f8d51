"""EK-FAC, K-FAC and Gauss-Newton as dense matrices, from loops over single examples, autograd and numpy, all in float64.

Slow and obvious, for the networks of `networks.py`; shares no code with `explorer/` but the names of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from explorer.contracts import TARGETS, Target
from explorer.influence import layers
from tests.influence.networks import Network, gradient_loop, loss, network
from tests.problems import TensorExamples


@dataclass(frozen=True)
class Twin:
    """Everything about a network in float64, layer by layer, from loops of one example."""

    train: list[Tensor]  # g_i, [n, out, in]
    columns: list[Tensor]  # √p_c ∇loss(c), [n, c, out, in]
    asked: dict[str, list[Tensor]]
    A: list[np.ndarray]
    S: list[np.ndarray]
    weight_decay: float


def _answers(outputs: Tensor) -> list[Tensor]:
    """Values whose gradients, squared and summed, are the Fisher: √p_c log p_c for each class, or the output."""
    if outputs.shape[1] == 1:
        return [outputs[0, 0]]
    logs = outputs.log_softmax(1)[0]
    return [p.sqrt() * log for p, log in zip(logs.detach().exp(), logs, strict=True)]


def _patches(module: nn.Module, x: Tensor) -> Tensor:
    """Rows `[places, width_in]` that a layer multiplies, sliced out one by one; the bias sees a one."""
    if isinstance(module, nn.Linear):
        rows = x.reshape(-1, x.shape[-1])
    else:
        x = x if x.dim() == 4 else x[:, :, None]
        d = (1,) * (4 - 2 - len(module.kernel_size))
        (kh, kw), (sh, sw), (dh, dw) = d + module.kernel_size, d + module.stride, d + module.dilation
        if module.padding == "same":
            ph, pw = (kh - 1) // 2, (kw - 1) // 2
        else:
            ph, pw = (0,) * len(d) + module.padding
        x = functional.pad(x, (pw, pw, ph, ph))
        height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
        rows = torch.stack(
            [
                x[0, :, i * sh : i * sh + dh * (kh - 1) + 1 : dh, j * sw : j * sw + dw * (kw - 1) + 1 : dw].flatten()
                for i in range(height)
                for j in range(width)
            ]
        )
    return rows if module.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def double(examples: TensorExamples) -> Tensor:
    return examples.inputs.double() if examples.inputs.is_floating_point() else examples.inputs


@cache
def twin_of_network(name: str) -> Twin:
    made = network(name, torch.float64)
    return twin_of(made, [layer.name for layer in layers.of(made.model, made.train.inputs).layers])


def twin_of(made: Network, names: list[str]) -> Twin:
    model, x, n = made.model.eval(), double(made.train), len(made.train)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def hook(module: nn.Module, args: tuple[Tensor], out: Tensor, name: str) -> Tensor:
        calls[name].append((_patches(module, args[0].detach()), out))
        return out.clone()  # what follows may change it in place

    hooks = [model.get_submodule(name).register_forward_hook(partial(hook, name=name)) for name in names]
    A: list[list[Tensor]] = [[] for _ in names]
    S: list[list[Tensor]] = [[] for _ in names]
    for i in range(n):
        calls = {name: [] for name in names}
        values = _answers(model(x[i : i + 1]))
        for at, name in enumerate(names):
            A[at] += [rows for rows, _ in calls[name]]
            for value in values:
                for gradient in torch.autograd.grad(value, [out for _, out in calls[name]], retain_graph=True):
                    rows = gradient if isinstance(model.get_submodule(name), nn.Linear) else gradient.movedim(1, -1)
                    S[at].append(rows.reshape(-1, rows.shape[-1]))
    for hook in hooks:
        hook.remove()
    count = len(values)
    targets = made.train.targets
    train = gradient_loop(model, names, x, lambda out, i: loss(out, targets[i : i + 1])[0])
    columns = [gradient_loop(model, names, x, lambda out, i, c=c: _answers(out)[c]) for c in range(count)]
    asked = {}
    for target in TARGETS:

        def measure(out: Tensor, q: int, target: Target = target) -> Tensor:
            if target == "label":
                return -loss(out, made.test.targets[q : q + 1])[0]
            return out[0, 0] if out.shape[1] == 1 else out.log_softmax(1).max()

        asked[target] = gradient_loop(model, names, double(made.test), measure)
    return Twin(
        train,
        [torch.stack([column[at] for column in columns], 1) for at in range(len(names))],
        asked,
        [torch.cat(rows).T.numpy() @ torch.cat(rows).numpy() / len(torch.cat(rows)) for rows in A],
        [torch.cat(rows).T.numpy() @ torch.cat(rows).numpy() / n for rows in S],
        made.weight_decay,
    )


def dense(twin: Twin, method: str) -> list[Tensor]:
    """G of each layer as a dense matrix over its parameters, row by row."""
    found = []
    for A, S, columns in zip(twin.A, twin.S, twin.columns, strict=True):
        if method == "kfac":
            found.append(torch.from_numpy(np.kron(S, A)))
            continue
        axes = np.kron(np.linalg.eigh(S)[1], np.linalg.eigh(A)[1])
        flat = columns.flatten(2).flatten(0, 1).numpy() @ axes
        found.append(torch.from_numpy(axes @ np.diag((flat**2).sum(0) / len(columns)) @ axes.T))
    return found


def gauss_newton(twin: Twin) -> list[Tensor]:
    return [c.flatten(2).flatten(0, 1).T @ c.flatten(2).flatten(0, 1) / len(c) for c in twin.columns]


def expected_scores(twin: Twin, matrices: list[Tensor], damping: float, target: Target) -> tuple[Tensor, Tensor]:
    """Scores and self-influence with these matrices, damped and inverted one by one."""
    scores: Tensor | float = 0.0
    own: Tensor | float = 0.0
    for matrix, g, m in zip(matrices, twin.train, twin.asked[target], strict=True):
        inverse = torch.linalg.inv(matrix + (twin.weight_decay + damping) * torch.eye(len(matrix)))
        scores = scores - m.flatten(1) @ inverse @ g.flatten(1).T / len(g)
        own = own + ((g.flatten(1) @ inverse) * g.flatten(1)).sum(1) / len(g)
    assert isinstance(scores, Tensor)
    assert isinstance(own, Tensor)
    return scores, own
