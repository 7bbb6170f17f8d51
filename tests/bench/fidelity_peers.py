"""What do other libraries answer on the same checkpoints? Each behind one function, its sign turned at this door.

Nothing here is needed by the product. A library that is not installed is left out with that reason; versions that were
run: kronfluence 1.0.1, curvlinops-for-pytorch 3.0.1, captum 0.9.0, dattri 0.3.0, traker 0.3.2.

Signs: kronfluence scores ∇f·H⁻¹g for a loss-like f (helpful is positive; f is minus the measure here); captum, dattri
and TRAK rank helpful examples first with positive numbers. Curvlinops gives the inverse; −∇m·H⁻¹g is written here.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

from tests.bench.fidelity_methods import Answer, Candidate, LeftOutError
from tests.bench.fidelity_problems import margin
from tests.bench.fidelity_trained import Trained

BATCH = 512


def needs(module: str, name: str) -> None:
    """Raises `LeftOutError` where a library is not installed."""
    if importlib.util.find_spec(module) is None:
        raise LeftOutError(f"{name} is not installed (pip install {name})")


@contextmanager
def quiet() -> Iterator[None]:
    """Peers warn and log; the bench only tells results."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # progress bars
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _train_loader(trained: Trained, batch: int = BATCH) -> DataLoader:  # type: ignore[type-arg]
    return DataLoader(TensorDataset(trained.train.inputs, trained.train.targets), batch)


def _test_loader(trained: Trained, batch: int = BATCH) -> DataLoader:  # type: ignore[type-arg]
    return DataLoader(TensorDataset(trained.problem.test.inputs, trained.problem.test.targets), batch)


def _asked(trained: Trained, outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[..., 0] if trained.problem.asked == "output" else margin(outputs, targets)


def _loss(trained: Trained, reduction: str) -> nn.Module:
    return (
        nn.MSELoss(reduction=reduction)
        if trained.problem.asked == "output"
        else nn.CrossEntropyLoss(reduction=reduction)
    )


def _classification(trained: Trained) -> None:
    if trained.problem.asked == "output":
        raise LeftOutError("run for classification only")


# kronfluence


def kronfluence(trained: Trained, strategy: str = "ekfac", damping: float | None = None) -> Answer:
    """Its EK-FAC with sampled labels; damping None is its own tenth of the mean eigenvalue."""
    needs("kronfluence", "kronfluence")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Explained(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            outputs, targets = model(batch[0]), batch[1]
            if sample and trained.problem.asked == "output":
                targets = outputs.detach()[:, 0] + torch.randn(len(outputs))
            elif sample:
                targets = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return trained.problem.loss(outputs, targets).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return -_asked(trained, model(batch[0]), batch[1]).sum()

    torch.manual_seed(0)
    data = TensorDataset(trained.train.inputs, trained.train.targets)
    held = TensorDataset(trained.problem.test.inputs, trained.problem.test.targets)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        task = Explained()
        model = prepare_model(trained.network(), task)
        analyzer = Analyzer("bench", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.fit_all_factors("f", data, BATCH, FactorArguments(strategy=strategy))
        how = ScoreArguments(damping_factor=damping)
        analyzer.compute_pairwise_scores("s", "f", held, data, BATCH, BATCH, score_args=how)
        values = analyzer.load_pairwise_scores("s")["all_modules"]
        own = _kronfluence_own(analyzer, data, how) if bool(trained.flipped.any()) else None
    return Answer(values, None if own is None else lambda: own)


def _kronfluence_own(analyzer: Any, data: Any, how: Any) -> Tensor:
    analyzer.compute_self_scores("o", "f", data, BATCH, score_args=how)
    own: Tensor = analyzer.load_self_scores("o")["all_modules"]
    return own


# curvlinops


def _gradients(trained: Trained, f: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Per-example gradients of f(outputs `[1, k]`, targets `[1]`) by parameter, `[b, ...]`."""
    model = trained.network()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def one(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return f(functional_call(model, p, (x.unsqueeze(0),)), y.unsqueeze(0)).sum()

    return list(vmap(grad(one), (None, 0, 0))(weights, x, y).values())


def curvlinops(trained: Trained, eigen: bool = True, damping: float = 5e-4) -> Answer:
    """Its (E)K-FAC of the exact Fisher ("type-2", "expand", weight and bias together), exact damping."""
    needs("curvlinops", "curvlinops-for-pytorch")
    from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator

    model = trained.network()
    loose = [
        name
        for name, m in model.named_modules()
        if not isinstance(m, nn.Linear | nn.Conv2d) and list(m.parameters(recurse=False))
    ]
    if loose:
        raise LeftOutError(f"only linear and convolution layers; this network also has {', '.join(loose)}")
    params = list(model.parameters())
    targets = trained.train.targets.unsqueeze(1) if trained.problem.asked == "output" else trained.train.targets
    data = [(trained.train.inputs, targets)]
    kind = EKFACLinearOperator if eigen else KFACLinearOperator
    with quiet():
        curvature = kind(
            model,
            _loss(trained, "mean"),
            params,
            data,
            fisher_type="type-2",
            separate_weight_and_bias=False,
            check_deterministic=False,
        )
        inverse = KFACInverseLinearOperator(curvature, damping=damping, use_exact_damping=True)
        asked = _gradients(
            trained, lambda o, y: _asked(trained, o, y), trained.problem.test.inputs, trained.problem.test.targets
        )
        solved = inverse @ [g.movedim(0, -1) for g in asked]
        flat = torch.cat([s.reshape(-1, s.shape[-1]) for s in solved]).detach()
    values = torch.empty(len(trained.problem.test), len(trained.train))
    for rows in torch.arange(len(trained.train)).split(BATCH):
        x, y = trained.train.inputs[rows], trained.train.targets[rows]
        some = _gradients(trained, trained.problem.loss, x, y)
        values[:, rows] = -(torch.cat([g.flatten(1) for g in some], 1) @ flat).T / len(trained.train)
    return Answer(values)


# captum


def _captum_load(trained: Trained, at: tuple[int, ...]) -> tuple[list[str], Callable[[nn.Module, str], float]]:
    def load(model: nn.Module, which: str) -> float:
        model.load_state_dict(dict(trained.states[int(which)]))
        return trained.rates[int(which)]

    return [str(k) for k in at], load


def _captum_own(made: Any) -> Tensor:
    with quiet():
        own: Tensor = made.self_influence()
    return own


def captum_arnoldi(trained: Trained, projections: int = 100) -> Answer:
    """`ArnoldiInfluenceFunction` over all layers."""
    needs("captum", "captum")
    _classification(trained)
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    (name, *_), load = _captum_load(trained, (len(trained.states) - 1,))
    data = TensorDataset(trained.train.inputs, trained.train.targets)
    with quiet():
        torch.manual_seed(0)
        made = ArnoldiInfluenceFunction(
            trained.network(),
            data,
            checkpoint=name,
            checkpoints_load_func=load,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=256,
            projection_dim=projections,
            sample_wise_grads_per_batch=True,
        )
        values = made.influence((trained.problem.test.inputs, trained.problem.test.targets))
    return Answer(values, lambda: _captum_own(made), asked="label")


def captum_last_layer(trained: Trained) -> Answer:
    """`NaiveInfluenceFunction` on the head: an explicit inverse on the 50 largest eigenvectors (its default)."""
    needs("captum", "captum")
    _classification(trained)
    from captum.influence._core.influence_function import NaiveInfluenceFunction

    (name, *_), load = _captum_load(trained, (len(trained.states) - 1,))
    model = trained.network()
    head = list(dict(model.named_children()))[-1]
    with quiet():
        made = NaiveInfluenceFunction(
            model,
            TensorDataset(trained.train.inputs, trained.train.targets),
            checkpoint=name,
            checkpoints_load_func=load,
            layers=[head],
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=256,
            sample_wise_grads_per_batch=True,
        )
        values = made.influence((trained.problem.test.inputs, trained.problem.test.targets))
    return Answer(values, lambda: _captum_own(made), asked="label")


def captum_tracin(trained: Trained, checkpoints: int = 6) -> Answer:
    """`TracInCPFast` on the head."""
    needs("captum", "captum")
    _classification(trained)
    from captum.influence import TracInCPFast

    at = tuple(range(len(trained.states)))[-checkpoints:]
    names, load = _captum_load(trained, at)
    model = trained.network()
    with quiet():
        made = TracInCPFast(
            model,
            model[-1],
            TensorDataset(trained.train.inputs, trained.train.targets),
            checkpoints=names,
            checkpoints_load_func=load,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=256,
        )
        values = made.influence((trained.problem.test.inputs, trained.problem.test.targets), k=None)
    return Answer(values, lambda: _captum_own(made), asked="label")


# dattri


def _dattri_task(trained: Trained, states: list[dict[str, Tensor]]) -> tuple[Any, nn.Module]:
    from dattri.task import AttributionTask

    model = trained.network()

    def outputs(params: Any, x: Tensor) -> Tensor:
        """Of examples, or of one without a batch around it: both are asked for."""
        alone = x.dim() == trained.train.inputs.dim() - 1
        return functional_call(model, params, (x.unsqueeze(0) if alone else x,))

    def loss(params: Any, data: Any) -> Tensor:
        x, y = data
        return trained.problem.loss(outputs(params, x), y.reshape(-1)).mean()

    def target(params: Any, data: Any) -> Tensor:
        x, y = data
        return -_asked(trained, outputs(params, x), y.reshape(-1)).sum()

    return AttributionTask(loss, model, states, target_func=target), model


def dattri_cg(trained: Trained, damping: float = 1e-2, steps: int = 10, block: int = 30) -> Answer:
    """`IFAttributorCG`; in blocks of queries, since all at once took 15 GB."""
    needs("dattri", "dattri")
    from dattri.algorithm.influence_function import IFAttributorCG

    task, _ = _dattri_task(trained, [dict(trained.states[-1])])
    with quiet():
        made = IFAttributorCG(task, max_iter=steps, regularization=damping)
        made.cache(_train_loader(trained, len(trained.train)))
        values = made.attribute(_train_loader(trained, len(trained.train)), _test_loader(trained, block))
    return Answer(values.T.detach())


def dattri_trak(trained: Trained, dimensions: int = 512, ridge: float = 1e-2) -> Answer:
    """`TRAKAttributor` on the final network."""
    needs("dattri", "dattri")
    _classification(trained)
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    model = trained.network()

    def odds(params: Any, data: Any) -> Tensor:
        x, y = data
        return margin(functional_call(model, params, (x.unsqueeze(0),)), y.reshape(-1)).sum()

    def chance(params: Any, data: Any) -> Tensor:
        x, y = data
        logits = functional_call(model, params, (x.unsqueeze(0),))
        return torch.exp(-nn.functional.cross_entropy(logits, y.reshape(-1)))

    with quiet():
        task = AttributionTask(odds, model, [dict(trained.states[-1])])
        how = {"proj_dim": dimensions, "device": "cpu"}
        made = TRAKAttributor(task, chance, projector_kwargs=how, regularization=ridge)
        made.cache(_train_loader(trained))
        values = made.attribute(_test_loader(trained))
    return Answer(values.T.detach())


# TRAK


def trak(trained: Trained, dimensions: int = 512, models: int = 1, ridge: float = 0.0) -> Answer:
    """`TRAKer` averaged over the members."""
    needs("trak", "traker")
    _classification(trained)
    from trak import TRAKer
    from trak.projectors import BasicProjector, NoOpProjector, ProjectionType

    model = trained.network()
    size = sum(p.numel() for p in model.parameters())
    projector: Any = (
        NoOpProjector()
        if dimensions == 0
        else BasicProjector(
            grad_dim=size,
            proj_dim=dimensions,
            seed=0,
            proj_type=ProjectionType.normal,
            device="cpu",
            dtype=torch.float32,
        )
    )
    with quiet(), tempfile.TemporaryDirectory() as folder:
        made = TRAKer(
            model,
            "image_classification",
            train_set_size=len(trained.train),
            save_dir=str(Path(folder) / "trak"),
            device="cpu",
            projector=projector,
            proj_dim=dimensions,
            use_half_precision=False,
            lambda_reg=ridge,
            logging_level=logging.ERROR,
        )
        for at, state in enumerate(trained.members[:models]):
            made.load_checkpoint(dict(state), model_id=at)
            for batch in _train_loader(trained):
                made.featurize(batch=list(batch), num_samples=len(batch[0]))
        made.finalize_features()
        for at, state in enumerate(trained.members[:models]):
            made.start_scoring_checkpoint("test", dict(state), model_id=at, num_targets=len(trained.problem.test))
            for batch in _test_loader(trained):
                made.score(batch=list(batch), num_samples=len(batch[0]))
        values = torch.tensor(made.finalize_scores("test").T.copy())
    return Answer(values.float())


def peers(every: bool = True) -> list[Candidate]:
    """The peers' rows; without `every` the quick ones alone."""
    rows = [
        Candidate("kronfluence", "EK-FAC, own damping", kronfluence),
        Candidate("curvlinops", "EK-FAC, exact Fisher, 5e-4", curvlinops),
        Candidate("curvlinops", "K-FAC, exact Fisher, 1e-3", curvlinops, {"eigen": False, "damping": 1e-3}),
        Candidate("captum", "last layer", captum_last_layer),
        Candidate("captum", "TracIn fast, 1 checkpoint", captum_tracin, {"checkpoints": 1}),
        Candidate("captum", "TracIn fast, 6 checkpoints", captum_tracin),
        Candidate("captum", "Arnoldi, 100 projections", captum_arnoldi),
        Candidate("traker", "TRAK, 1 model x 512", trak),
        Candidate("dattri", "TRAK, 1 model x 512, ridge 1e-2", dattri_trak),
    ]
    if every:
        rows += [
            Candidate("traker", "TRAK, 5 models x 512", trak, {"models": 5}),
            Candidate("dattri", "conjugate gradient, 10 steps, 1e-2", dattri_cg, queries=60),
        ]
    return rows
