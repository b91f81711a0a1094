"""What runs on the cluster: one training, or one evaluation, from its specification to its entry in the store.

Trainings on one worker run inside their Tune trials, whose process goes on to the next one; those on several are taken
one after the other by the workers of a Ray Train ``TorchTrainer``, which start once. Both end in :func:`train_run`.
"""

import contextlib
import shutil
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

from eman.evaluation import measure
from eman.evaluation.protocols import registry as protocols
from eman.evaluation.trained import Trained
from eman.platform import checkpoint
from eman.platform.errors import BusyError, RunFailed, UserError, first_line
from eman.platform.lock import locked
from eman.platform.machine import Usage
from eman.platform.store.store import EVALUATION, TRAINING, RunLog, Store, new_id
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.data import subsets
from eman.trainers.loop import OnStep, fit
from eman.trainers.methods.registry import method_named, run_title, scheme_of
from eman.trainers.spec.run import EvalSpec, RunSpec

Config = dict[str, Any]

#: Workers of a run: a number, the fewest and the most, or "auto".
Workers = int | tuple[int, int] | str
OnEpochDone = Callable[[int, dict[str, float]], None]


@lru_cache(maxsize=1)
def _store(workspace: Workspace) -> Store:
    return Store(workspace, patient=True)


@lru_cache(maxsize=2)
def _trained(run: str, workspace: Workspace, network: str, selection: str, dataset: str | None) -> Trained:
    return Trained(run, workspace, network, selection, dataset)


def check_workers(workers: Workers | None, devices: int) -> None:
    """Raises :class:`UserError` unless every number of workers that may come about divides the devices."""
    if workers is None or isinstance(workers, str):
        return
    low, high = workers if isinstance(workers, tuple) else (workers, workers)
    if low < 1 or low > high or any(devices % number for number in range(low, high + 1)):
        given = str(low) if low == high else f"{low}-{high}"
        raise UserError(
            f"--workers {given} does not divide the run's {devices} devices; every number of workers must be a divisor "
            f"of {devices}."
        )


def divisor(devices: int, most: int) -> int:
    """The largest number of workers, at most ``most``, that divides the devices."""
    return max(number for number in range(1, max(most, 1) + 1) if devices % number == 0)


def training_config(
    spec: RunSpec,
    store: Store,
    *,
    profile: str,
    parent: str | None,
    workers: Workers,
    launch: str | None = None,
    again: str = "",
    title: str | None = None,
) -> Config:
    """What a trial needs to know of a training, in plain values.

    ``launch`` is the key of who runs it, and ``again`` the owner that has done it if it is to be trained although it is
    done (:meth:`~eman.platform.store.store.Store.begin`).
    """
    return {
        "spec": spec.fields(),
        "workspace": store.workspace,
        "profile": profile,
        "parent": parent,
        "workers": workers,
        "launch": launch or new_id(),
        "again": again,
        "title": title or run_title(spec),
        "label": title or run_title(spec),
    }


def train_run(config: Config, on_epoch: OnEpochDone | None = None, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains one run, in this process or as one of several workers, and writes it to the store (worker 0 alone).

    Returns:
        ``status`` (``done``, ``failed``, or ``elsewhere`` if another process is at it or has done it), ``reason``,
        ``seconds``.
    """
    spec, workspace = RunSpec.from_fields(config["spec"]), config["workspace"]
    folder = workspace.run_folder(spec.key)
    first, log, reason = distributed.rank() == 0, None, ""
    with locked(folder / "lock") if first else contextlib.nullcontext(True) as mine:
        if not mine:
            reason = "another process of this machine is at it"
        elif first:
            try:
                log = begin_training(spec, config)
            except BusyError as error:
                reason = str(error)
        if not distributed.agreed(not reason):
            return {"status": "elsewhere", "reason": reason, "seconds": 0.0}
        if log is None:
            return _outcome_of(lambda: fit(spec, workspace, folder=folder, monitor=measure.monitor).seconds, None)
        return _outcome_of(partial(_train_and_measure, spec, log, on_epoch, on_step), log)


def _train_and_measure(spec: RunSpec, log: RunLog, on_epoch: OnEpochDone | None, on_step: OnStep | None) -> float:
    """Worker 0's part: fit, final measures, the store. Returns the seconds spent in training."""
    usage = Usage()

    def epoch_done(number: int, metrics: dict[str, float]) -> None:
        log.epoch(number, metrics | usage.take(), number / spec.epochs)
        if on_epoch is not None:
            on_epoch(number, metrics)

    def step_done(step: int, steps: int) -> None:
        log.beat(step / steps)
        usage.sample()
        if on_step is not None:
            on_step(step, steps)

    workspace = log.store.workspace
    folder = workspace.run_folder(spec.key)
    outcome = fit(spec, workspace, folder=folder, monitor=measure.monitor, on_epoch=epoch_done, on_step=step_done)
    found = measure.final(outcome.training, folder, outcome.best_epoch)
    tags = {"eman.data_hash": outcome.training.dataset.hash, "eman.best_epoch": str(outcome.best_epoch)}
    if outcome.training.labelled is not None:
        tags["eman.label_set_hash"] = subsets.fingerprint(outcome.training.labelled)
    log.finish(found | {"train/seconds": outcome.seconds} | usage.take(last=True), tags)
    checkpoint.remove_newest(folder / "resume.pt")
    return outcome.seconds


def _outcome_of(work: Callable[[], float], log: RunLog | None) -> dict[str, Any]:
    """Runs ``work`` and says how it ended. The reason of a failure is kept in the run, a bug's traceback with it."""
    try:
        return {"status": "done", "reason": "", "seconds": work()}
    except Exception as error:
        expected = isinstance(error, RunFailed | UserError)
        reason = str(error) if expected else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if log is not None:
            if not expected:
                with contextlib.suppress(Exception):  # the store may be the very thing that fails
                    log.store.client.log_text(log.run_id, traceback.format_exc(), "error.txt")
            log.fail(reason)
        # A loss that is not finite is so on every worker; whatever else happens, happens to one of them.
        return {"status": "failed", "reason": reason, "seconds": 0.0, "everywhere": isinstance(error, RunFailed)}


def lost(kind: str, key: str, config: Config, reason: str) -> dict[str, Any]:
    """The outcome of a run of ours that could not tell it: why it failed, if the store knows; else it has crashed, and
    is left such that it can be taken up at once.
    """
    status = "crashed"
    store = _store(config["workspace"])
    for record in store.records(kind, key):
        if record.tags.get("eman.launch") == config["launch"]:
            if record.status == "failed":
                status, reason = "failed", record.reason
            elif record.status == "running":
                RunLog(store, record.run_id, 0).interrupt()
    return {"status": status, "reason": reason, "seconds": 0.0}


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
        "eman.launch": config["launch"],
        "eman.network": "student",
        "eman.selection": "last",
    }
    return _store(config["workspace"]).begin(
        TRAINING,
        spec.key,
        config["title"],
        tags=tags,
        parent=config["parent"],
        params={**spec.fields(), **({"init": spec.init.key} if spec.init else {}), "scheme": scheme.title},
        again=config["again"],
    )


def evaluate_runs(config: Config) -> dict[str, Any]:
    """Evaluations that belong together, each to its entry in the store.

    Returns:
        ``status`` (the worst one) and ``reason``, ``outcomes`` by key, and ``said``, the best result in words.
    """
    specs = [EvalSpec.from_fields(fields) for fields in config["specs"]]
    workspace = config["workspace"]
    first, logs, outcomes = specs[0], dict[str, RunLog](), dict[str, dict[str, Any]]()
    with locked(workspace.run_folder(first.run) / f"{protocols.group_key(first)}.lock") as mine:
        for spec in specs:
            try:
                if not mine:
                    raise BusyError("another process of this machine is at it")
                logs[spec.key] = _store(config["workspace"]).begin(
                    EVALUATION,
                    spec.key,
                    f"{config['title']} · {protocols.eval_title(spec)}",
                    params=spec.fields(),
                    parent=config["parent"],
                    tags={**config["tags"], "eman.run": spec.run, "eman.launch": config["launch"]},
                )
            except BusyError as error:
                outcomes[spec.key] = {"status": "elsewhere", "reason": str(error)}
        todo = [spec for spec in specs if spec.key in logs]
        if todo:
            for spec, result in zip(todo, _results(todo, workspace), strict=True):
                outcomes[spec.key] = _outcome_of(partial(_finish, result, logs[spec.key]), logs[spec.key])
                if isinstance(result, dict):
                    outcomes[spec.key]["metrics"] = result
    found = [outcomes[spec.key] for spec in specs]
    worst = next((outcome for outcome in found if outcome["status"] != "done"), found[0])
    best = max((next(iter(o["metrics"].items()))[::-1] for o in found if "metrics" in o), default=None)
    said = f"{best[1]} {best[0]:.1f}" if best else ""
    return {"status": worst["status"], "reason": worst["reason"], "outcomes": outcomes, "said": said}


def _results(specs: Sequence[EvalSpec], workspace: Workspace) -> Sequence[dict[str, float] | Exception]:
    """One result each, or why there is none."""
    first = specs[0]
    try:
        return protocols.evaluate(specs, _trained(first.run, workspace, first.network, first.selection, first.dataset))
    except Exception as error:
        return [error] * len(specs)


def _finish(result: dict[str, float] | Exception, log: RunLog) -> float:
    if isinstance(result, Exception):
        raise result
    log.finish(result)
    return 0.0


# Ray ------------------------------------------------------------------------------------------------------------------

#: A Tune trial's task is a list of what it does one after the other; each result names a place in it, by default 0.


def train_trial(config: dict[str, list[Config]]) -> None:
    """A Tune trial: one training, in this process."""
    from ray import tune

    [task] = config["task"]
    _one_thread()
    epochs = task["spec"]["epochs"]

    def epoch_done(number: int, metrics: dict[str, float]) -> None:
        tune.report({"share": number / (epochs + 1), "epoch": number, **metrics})

    tune.report({"share": 1.0, **train_run(task, epoch_done)})


def train_on_workers_trial(config: dict[str, list[Config]]) -> None:
    """A Tune trial: trainings one after the other, on the same workers."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    try:
        train_on_workers(config["task"], [TuneReportCallback()])
    except Exception as error:  # who drives the sweep knows from the results how far it came
        tune.report({"lost": first_line(error)})


def evaluate_trial(config: dict[str, list[Config]]) -> None:
    """A Tune trial: evaluations that belong together, a grid of learning rates for example."""
    from ray import tune

    [task] = config["task"]
    _one_thread()
    tune.report({"share": 1.0, **evaluate_runs(task)})


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_on_workers(configs: Sequence[Config], callbacks: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Trains runs one after the other by one Ray Train TorchTrainer, whose workers start only once.

    ``configs[0]["workers"]`` DDP processes, gloo or NCCL between them, or a pair of the fewest and the most, between
    which Ray Train may change the number while a run goes on. A worker that dies is replaced, and the run resumes.

    Args:
        configs: The runs, all for as many workers with the same resources.
        callbacks: Ray Train's callbacks; they are told each run's outcome, and its place ``at`` in the list.

    Returns:
        The outcomes, as of :func:`train_run`.

    Raises:
        Exception: Workers were lost too often, or a run failed too often on one of them.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    given: Any = train  # Train V2's classes, which its type hints do not show
    per_worker = configs[0].get("resources", {"CPU": 1})
    # A name that Ray Train has seen would resume that run; ours are resumed from our own checkpoints.
    name, storage = f"train-{new_id()}", configs[0]["workspace"].ray_folder
    trainer: Any = TorchTrainer(
        cast("Any", _worker_loop),
        train_loop_config={"runs": list(configs)},
        scaling_config=given.ScalingConfig(
            num_workers=configs[0]["workers"], resources_per_worker=per_worker, use_gpu=per_worker.get("GPU", 0) > 0
        ),
        run_config=given.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=given.FailureConfig(max_failures=2, controller_failure_limit=1),
            logging_config=given.LoggingConfig(log_level="ERROR"),
            callbacks=list(callbacks),
        ),
    )
    try:
        outcomes: list[dict[str, Any]] = trainer.fit().return_value
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)
    return outcomes


def _worker_loop(config: dict[str, list[Config]]) -> list[dict[str, Any]]:
    """Ray Train's worker function. Started anew after a loss, it finds what is done already, and goes on from there."""
    import torch.distributed as dist
    from ray import train

    _one_thread()
    outcomes = []
    for at, run in enumerate(config["runs"]):
        outcome = train_run(run)
        if outcome["status"] == "failed" and not outcome["everywhere"] and dist.is_initialized():
            raise RuntimeError(outcome["reason"])  # the other workers wait for this one: Ray Train ends them
        train.report({"at": at, "share": 1.0, **outcome})
        outcomes.append(outcome)
    return outcomes
