"""What runs on the cluster: one training, or one evaluation, from its specification to its entry in the store.

A training on one worker runs inside its Tune trial, whose process goes on to the next one; on several it is a Ray Train
``TorchTrainer``. Both end in :func:`train_run`.
"""

import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from eman.evaluation import features, linear, measure
from eman.platform.errors import RunFailed, UserError
from eman.platform.home import home_folder, run_folder
from eman.platform.spec import EvalSpec, RunSpec
from eman.platform.tracking import EVALUATION, TRAINING, RunLog, Store
from eman.trainers import data, distributed
from eman.trainers.loop import OnStep, fit
from eman.trainers.methods import method_named, run_title, scheme_of

Config = dict[str, Any]
OnEpochDone = Callable[[int, dict[str, float]], None]


@lru_cache(maxsize=1)
def _store(uri: str) -> Store:
    return Store(uri)


@lru_cache(maxsize=2)
def _features(run: str, network: str, selection: str) -> features.Features:
    return features.read(features.path(run_folder(run), network, selection), run)


def training_config(spec: RunSpec, store: Store, *, profile: str, parent: str | None, workers: int) -> Config:
    """What a trial needs to know of a training, in plain values."""
    return {"spec": spec.fields(), "store": store.uri, "profile": profile, "parent": parent, "workers": workers}


def train_run(config: Config, on_epoch: OnEpochDone | None = None, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains one run, in this process or as one of several workers, and writes it to the store (worker 0 alone).

    Returns:
        ``status`` (``done`` or ``failed``), ``reason``, ``seconds`` of training.
    """
    spec = RunSpec.from_fields(config["spec"])
    first = distributed.rank() == 0
    log = begin_training(spec, config) if first else None

    def epoch_done(number: int, metrics: dict[str, float]) -> None:
        assert log is not None
        log.epoch(number, metrics)
        if on_epoch is not None:
            on_epoch(number, metrics)

    def step_done(step: int, steps: int) -> None:
        assert log is not None
        log.beat()
        if on_step is not None:
            on_step(step, steps)

    folder = run_folder(spec.key)
    try:
        outcome = fit(spec, folder=folder, monitor=measure.monitor, on_epoch=epoch_done, on_step=step_done)
        if log is not None:
            found = measure.final(outcome.training, folder, outcome.best_epoch)
            tags = {"eman.data_hash": outcome.training.dataset.hash, "eman.best_epoch": str(outcome.best_epoch)}
            if outcome.training.labelled is not None:
                tags["eman.label_set_hash"] = data.fingerprint(outcome.training.labelled)
            log.finish(found | {"train/seconds": outcome.seconds}, tags)
            (folder / "resume.pt").unlink(missing_ok=True)
        return {"status": "done", "reason": "", "seconds": outcome.seconds}
    except Exception as error:
        return _failed(log, error)


def begin_training(spec: RunSpec, config: Config) -> RunLog:
    """The training's entry in the store."""
    scheme = scheme_of(spec)
    method = method_named(spec.method)
    tags = {
        "method": method.title,
        "scheme": scheme.title,
        "profile": config["profile"],
        "seed": str(spec.seed),
        "eman.workers": str(config["workers"]),
        "eman.network": "student",
        "eman.selection": "last",
    }
    return _store(config["store"]).begin(
        TRAINING,
        spec.key,
        run_title(spec),
        tags=tags,
        parent=config["parent"],
        params={**spec.fields(), "scheme": scheme.title},
    )


def _failed(log: RunLog | None, error: Exception) -> dict[str, Any]:
    """Keeps the reason in the run. A bug's traceback goes with it."""
    expected = isinstance(error, RunFailed | UserError)
    reason = str(error) if expected else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if log is not None:
        if not expected:
            log.store.client.log_text(log.run_id, traceback.format_exc(), "error.txt")
        log.fail(reason)
    return {"status": "failed", "reason": reason, "seconds": 0.0}


def evaluate_run(config: Config) -> dict[str, Any]:
    """One linear evaluation at one learning rate, from cached features to its entry in the store."""
    spec = EvalSpec.from_fields(config["spec"])
    name = f"linear · {config['title']} · lr {spec.lr:g}"
    log = _store(config["store"]).begin(
        EVALUATION,
        spec.key,
        name,
        params=spec.fields(),
        parent=config["parent"],
        tags={**config["tags"], "eman.run": spec.run},
    )
    try:
        found = _features(spec.run, spec.network, spec.selection)
        result = linear.evaluate(
            spec,
            found.train_ND,
            found.train_labels_N,
            (found.held_out_ND, found.held_out_labels_N),
            (found.test_ND, found.test_labels_N),
        )
        log.finish(result)
        return {"status": "done", "reason": "", **result}
    except Exception as error:
        return _failed(log, error)


# Ray ------------------------------------------------------------------------------------------------------------------


def train_trial(config: Config) -> None:
    """A Tune trial: a training in this process, or by a TorchTrainer with several workers."""
    from ray import tune

    _one_thread()
    config = config["task"]
    if config["workers"] == 1:
        epochs = config["spec"]["epochs"]
        outcome = train_run(config, lambda number, metrics: tune.report({"share": number / (epochs + 1), **metrics}))
    else:
        outcome = train_on_workers(config)
    tune.report({"share": 1.0, **outcome})


def evaluate_trial(config: Config) -> None:
    """A Tune trial: one linear evaluation."""
    from ray import tune

    _one_thread()
    tune.report({"share": 1.0, **evaluate_run(config["task"])})


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_on_workers(config: Config) -> dict[str, Any]:
    """Trains one run by Ray Train's TorchTrainer: ``config["workers"]`` DDP processes, gloo or NCCL between them."""
    from ray import train
    from ray.train.torch import TorchTrainer

    configs: Any = train  # Train V2's classes, which its type hints do not show

    key = RunSpec.from_fields(config["spec"]).key
    name = f"{config['parent'] or 'alone'}-{key}-{config['attempt']}"  # a name that Ray has seen would resume that run
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config=config,
        scaling_config=configs.ScalingConfig(num_workers=config["workers"], resources_per_worker={"CPU": 1}),
        run_config=configs.RunConfig(
            name=name,
            storage_path=str(home_folder() / "ray"),
            failure_config=configs.FailureConfig(max_failures=0, controller_failure_limit=1),
            logging_config=configs.LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()
    record = Store(config["store"]).by_key(TRAINING)[key]
    return {"status": record.status, "reason": record.reason, "seconds": record.metrics.get("train/seconds", 0.0)}


def _worker_loop(config: Config) -> None:
    """Ray Train's worker function."""
    _one_thread()
    train_run(config)
