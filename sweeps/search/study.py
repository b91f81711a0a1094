"""Optuna's view of a search. Optuna is imported only here and where a study is used."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eman.sweeps.request import SweepRequest
from eman.sweeps.search.space import Range
from eman.trainers.spec.kinds import Value

if TYPE_CHECKING:
    from optuna import Study, Trial

Axes = Mapping[str, Sequence[Value] | Range]

#: Share of the samples that are drawn at random before Optuna's estimator chooses, and the least number of them.
_RANDOM_SHARE, _RANDOM_LEAST = 0.25, 3


#: A point's fields and its objective.
Known = tuple[Mapping[str, Value], float]


def study_of(axes: Axes, known: Iterable[Known], mode: str, request: SweepRequest) -> "Study":
    """Return a study of points over some axes; `known` are points with their objective."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    first = max(_RANDOM_LEAST, round(_RANDOM_SHARE * request.samples))
    study = optuna.create_study(
        direction="minimize" if mode == "min" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=request.search_seed, n_startup_trials=first),
    )
    space = distributions(axes)
    for fields, value in known:
        params = {name: _place(axes[name], fields[name]) for name in axes}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return study


def distributions(axes: Axes) -> dict[str, Any]:
    """Return Optuna's distribution of each axis. Numbers that are not whole are places on the range's scale."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {}
    for name, axis in axes.items():
        if not isinstance(axis, Range):
            space[name] = CategoricalDistribution([_plain(value) for value in axis])
        elif axis.whole:
            space[name] = IntDistribution(int(axis.low), int(axis.high), log=axis.scale == "log")
        else:
            space[name] = FloatDistribution(axis.scaled(axis.low), axis.scaled(axis.high))
    return space


def ask(study: "Study", axes: Axes) -> "tuple[Trial, dict[str, Value]]":
    """Ask a study for a point; return Optuna's trial and the point's fields."""
    trial = study.ask(distributions(axes))
    return trial, {name: _value(axis, trial.params[name]) for name, axis in axes.items()}


def _place(axis: Sequence[Value] | Range, value: Any) -> Any:
    if not isinstance(axis, Range):
        return _plain(value)
    return value if axis.whole else min(max(axis.scaled(value), axis.scaled(axis.low)), axis.scaled(axis.high))


def _value(axis: Sequence[Value] | Range, place: Any) -> Value:
    if not isinstance(axis, Range):
        return next(value for value in axis if _plain(value) == place)
    return int(place) if axis.whole else axis.rounded(axis.unscaled(place))


def _plain(value: Value) -> bool | int | float | str | None:
    """Return a value as Optuna stores it: a list of numbers as text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
