"""Planning: which runs stand behind tables and grids, and what is refused before anything runs."""

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from eman.cli import main
from eman.platform.errors import UserError
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.cost import measured, recent
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.profiles.cifar10 import CIFAR10
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.quick import QUICK
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.profiles.stl10 import STL10
from eman.sweeps.request import SweepRequest, command
from eman.sweeps.tables.figure3 import lines
from eman.sweeps.work import steps, work
from eman.trainers.data.known import KNOWN
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.labels import record_params
from eman.trainers.spec.method import TeacherSection
from eman.trainers.spec.run import RunSpec


def of_tables(*names: str, profile: str = "smoke", **fields: Any) -> Sweep:
    return plan(SweepRequest(tables=names, profile=profile, **fields))


def of_grid(methods: list[str], schemes: list[str], **fields: Any) -> Sweep:
    return plan(SweepRequest(profile="smoke", methods=methods, schemes=schemes, **fields))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_46_cells_stand_on_35_trainings(profile: Profile) -> None:
    sweep = of_tables("table1", "table8", profile=profile.name)
    assert (sweep.cells, len(sweep.trainings)) == (46, 35)
    rates = profile.linear_lr
    assert len(sweep.evaluations) == 12 * len(rates["moco"]) + 10 * len(rates["byol"])
    assert len(of_tables("table1", "table8", profile=profile.name, seeds=3).trainings) == 105
    assert of_tables("table8", "table1", profile=profile.name).key == sweep.key
    drawn = {run.key for line in lines(sweep.scope) for run in line.runs}
    assert drawn == of_tables("table1", profile=profile.name).trainings.keys()


def test_tables_4_and_5_share_their_networks_with_table_1() -> None:
    sweep = of_tables("table4", "table5")
    assert (sweep.cells, len(sweep.trainings), len(sweep.evaluations)) == (11 * 3 + 9 * 5, 7, 7 * 7)
    assert len(of_tables("table1", "table4").trainings) == len(of_tables("table1").trainings) + 3
    by_row = {cell.row: cell.wanted for cell in sweep.tables[0].cells}
    assert by_row["InstDisc"] == ()
    assert by_row["MoCo (800 epochs)"][0].run.optim.epochs == 4 * by_row["MoCo (200 epochs)"][0].run.optim.epochs
    assert by_row["Supervised (90 epochs)"][0].run.flat()["label_fraction"] == 1
    assert ("MoCo-EMAN (800 epochs)", "MoCo (800 epochs)") in sweep.tables[0].contrasts
    assert len(sweep.tables[0].contrasts) == 3


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_fixmatch_starts_from_runs_of_the_other_tables(profile: Profile) -> None:
    sweep = of_tables("table6", profile=profile.name)
    runs = list(sweep.trainings.values())
    starts = {spec.network.init.key for spec in runs if spec.network.init is not None}
    assert len(starts) == 2
    assert starts < of_tables("table2", profile=profile.name).trainings.keys()
    assert len(runs) == 14 + 2
    for place, spec in enumerate(runs):
        assert spec.network.init is None or spec.network.init in runs[:place]
    assert len(set(sweep.titles.values())) == len(runs)
    by_row = {(cell.row, cell.column): cell.wanted for cell in sweep.tables[0].cells}
    short, long = (by_row[f"EMAN from MoCo, {times}×", "10% labels top-1"][0].run for times in (1, 3))
    assert (long.optim.epochs, long.optim.schedule) == (3 * short.optim.epochs, "cosine")
    assert by_row["baseline from None, 1×", "1% labels top-1"] == ()


def test_the_papers_low_shot_table_has_three_blocks() -> None:
    sweep = of_tables("table5", profile="imagenet")
    assert sweep.cells == 5 * (9 + 6 + 4)
    by_row = {cell.row: cell.wanted for cell in sweep.tables[0].cells if cell.column == "k=4"}
    voc_row, own_row = "VOC2007: MoCo (200 epochs)", "MoCo (200 epochs)"  # the data set of pretraining has no prefix
    [voc], [imagenet] = by_row[voc_row], by_row[own_row]
    assert voc.run == imagenet.run  # the domain is similar: ImageNet's network
    assert (voc.evaluations[0].dataset, voc.metric) == ("voc2007", "lowshot/k4_map")
    [inat] = by_row["iNaturalist: MoCo (1000 epochs)"]
    assert (inat.run.data.dataset, inat.run.optim.epochs, inat.evaluations[0].dataset) == ("inaturalist", 1000, None)
    assert ("iNaturalist: BYOL-EMAN (200 epochs)", "iNaturalist: BYOL (200 epochs)") in sweep.tables[0].contrasts


def test_the_papers_lengths_at_the_papers_scale() -> None:
    sweep = of_tables("table1", "table2", "table6", profile="imagenet")
    epochs = {(spec.method.name, spec.optim.epochs, spec.network.backbone) for spec in sweep.trainings.values()}
    assert epochs == {
        *(("moco", length, "resnet50") for length in (100, 200, 800)),  # Table 1; Tables 2 to 6
        *(("byol", length, "resnet50") for length in (50, 200)),
        *(("fixmatch", length, "resnet50") for length in (50, 100, 150, 300)),
        *(("supervised", length, "resnet50") for length in (90, 100)),
        ("moco", 200, "resnet50-2x"),
    }
    spec = next(iter(sweep.evaluations.values()))
    assert tuple(spec.flat()[name] for name in ("views", "epochs", "batch", "milestones")) == (
        "augmented",
        50,
        256,
        (0.6, 0.8),
    )


def test_profiles_of_published_numbers_count_labels_and_vote_as_those_do() -> None:
    for profile, images, labels in ((CIFAR10, KNOWN["cifar10"].train, 4_000), (STL10, 5_000, 1_000)):
        spec = profile.run("fixmatch", "eman")
        assert round(spec.flat()["label_fraction"] * (images - spec.data.held_out)) == labels
        sweep = of_tables("table4", profile=profile.name)
        votes = {
            (e.flat()["k"], e.flat()["temperature"]) for e in sweep.evaluations.values() if e.protocol.name == "knn"
        }
        assert votes == {(200, 0.1)}
        assert "kNN: k = 200, votes weighted by exp(cosine / 0.1)." in " ".join(sweep.tables[0].notes)
    assert "kNN: k = 20, one vote each." in " ".join(of_tables("table4").tables[0].notes)


def test_overrides_reach_every_run() -> None:
    sweep = of_tables("table1", profile="smoke", overrides={"epochs": 5})
    assert {spec.optim.epochs for spec in sweep.trainings.values()} == {5}


def test_notes_say_what_differs_from_the_profile() -> None:
    overrides = {"epochs": 5, "held_out": 300}
    for sweep in (
        of_tables("table1", overrides=overrides),
        of_grid(["moco"], ["bn"], linear_lr=[3, 30], overrides=overrides),
    ):
        notes = " ".join(sweep.tables[0].notes)
        assert "Overrides of the profile, in every run: epochs=5, held_out=300." in notes
        assert "chosen on 300 held-out training images" in notes
    assert "Overrides" not in " ".join(of_tables("table1").tables[0].notes)


def test_every_scheme_has_a_row_in_the_table_of_schemes() -> None:
    sweep = of_tables("schemes")
    [table] = sweep.tables
    assert table.rows == tuple(scheme.title for scheme in SCHEMES.values())
    assert len(table.cells) == 3 * len(SCHEMES)
    assert len(sweep.trainings) == 3 * len(SCHEMES) - 2  # MoCo's and BYOL's defaults are other rows' runs
    assert {cell.paper for cell in table.cells} == {"-"}
    assert of_tables("table1").trainings.keys() < sweep.trainings.keys()
    assert ("BN / frozen", "BN / EMAN") in table.contrasts


def momentum_of(run: RunSpec) -> float:
    assert isinstance(run.method, TeacherSection)
    return run.method.momentum


@pytest.mark.parametrize("profile", [QUICK, MINI], ids=["quick", "mini"])
def test_the_ema_scaling_rule_keeps_what_an_average_remembers(profile: Profile) -> None:
    by_batch, by_length = (replace(profile, ema_scaling=rule) for rule in ("batch", "run"))
    for method, paper, batch in (("fixmatch", 0.999, 320), ("moco", 0.999, 256), ("byol", 0.98, 512)):
        ours, original = profile.run(method, "eman"), IMAGENET.run(method, "eman")
        share = ours.method.images_per_step / batch
        assert momentum_of(by_batch.run(method, "eman")) == pytest.approx(paper**share, abs=1e-4)
        ratio = steps(original) / steps(ours)
        assert momentum_of(by_length.run(method, "eman")) == pytest.approx(paper**ratio, abs=1e-3)
        row = by_length.run(method, "eman-m0.99999").norm.eman_momentum
        assert row == pytest.approx(0.99999**ratio, abs=1e-4)
        assert momentum_of(by_length.run(method, "eman", 0, {"momentum": 0.5})) == 0.5
    assert IMAGENET.run("moco", "eman") == replace(IMAGENET, ema_scaling="run").run("moco", "eman")


def test_the_note_of_the_ema_scaling_rule_has_its_values() -> None:
    [plain], [scaled] = (of_tables("table1", profile="mini", ema_scaling=rule).tables for rule in ("none", "run"))
    assert not any("2307.13813" in note for note in plain.notes)
    [note] = [note for note in scaled.notes if "2307.13813" in note]
    assert "MoCo 0.999 becomes 0.774 (k = 257)" in note
    assert "BYOL 0.98 becomes 0.115 (k = 107)" in note


def test_notes_of_a_grid_name_only_its_methods() -> None:
    notes = " ".join(of_grid(["moco"], ["bn"], linear_lr=[3, 30]).tables[0].notes)
    assert "learning rate from MoCo {3, 30}, chosen" in notes
    assert "BYOL" not in notes
    assert "FixMatch" not in notes
    assert "linear" not in " ".join(of_grid(["fixmatch"], ["eman"]).tables[0].notes)


def test_a_method_without_published_rates_is_searched_over_all_of_them() -> None:
    assert IMAGENET.linear_rates("moco") == (15, 30, 60)
    assert IMAGENET.linear_rates("simsiam") == (0.2, 0.4, 0.8, 15, 30, 60)


def test_seeds_are_a_number_or_a_list() -> None:
    assert SweepRequest(tables=["1"], seeds=3).seeds == (0, 1, 2)
    sweep = of_tables("table1", seeds=[7])
    assert {spec.seed for spec in sweep.trainings.values()} == {7}
    assert {spec.flat().get("label_set") for spec in sweep.trainings.values()} == {7, None}
    assert "Seed 7." in sweep.scope.notes()


def test_a_grid_multiplies_only_what_applies() -> None:
    sweep = of_grid(["moco"], ["bn", "eman"], grid={"eman_momentum": [0.9, 0.99]}, linear_lr=[1, 2, 3], seeds=2)
    assert sweep.cells == 3
    assert len(sweep.trainings) == 6
    assert len(sweep.evaluations) == 18
    assert sweep.tables[0].rows == ("BN / BN", "BN / EMAN (m=0.9)", "BN / EMAN (m=0.99)")
    assert sweep.tables[0].contrasts == tuple((row, "BN / BN") for row in sweep.tables[0].rows[1:])


def test_rows_of_a_grid_name_what_varies() -> None:
    sweep = of_grid(["moco"], ["bn", "eman"], grid={"lr": [0.1, 0.3], "devices": [4, 8]})
    assert sweep.cells == len(sweep.trainings) == 8
    assert sweep.tables[0].rows[0] == "BN / BN · lr 0.1 · devices 4"
    assert len(set(sweep.tables[0].rows)) == 8


def test_an_override_that_makes_another_scheme_keeps_rows_apart() -> None:
    sweep = of_grid(["moco"], ["bn", "syncbn"], overrides={"teacher_norm": "eman"})
    assert sweep.tables[0].rows == ("BN / EMAN", "SyncBN / EMAN")
    assert len(sweep.trainings) == 2


def test_norms_are_an_axis_like_any_other() -> None:
    sweep = of_grid(["moco"], ["eman"], grid={"student_norm": ["bn", "syncbn"], "student_proxy_momentum": [0.9, 0.99]})
    assert len(set(sweep.tables[0].rows)) == sweep.cells == 4


def test_equal_points_of_a_grid_are_one_row() -> None:
    # The profile's momentum is 0.95: an EMAN momentum of 0.95 is the scheme "eman" by another name.
    sweep = of_grid(["moco", "moco"], ["eman", "eman"], grid={"eman_momentum": [0.9, 0.95, 0.9]})
    assert sweep.tables[0].rows == ("BN / EMAN (m=0.9)", "BN / EMAN")


@pytest.mark.usefixtures("store_file")
def test_speeds_are_medians_of_finished_runs_of_the_same_kind() -> None:
    sweep, other = (
        of_grid(["moco"], ["bn", "eman", "gn"]),
        of_grid(["moco"], ["bn"], overrides={"backbone": "resnet18"}),
    )
    store = Store(Workspace.from_environment())
    trainings = {**sweep.trainings, **other.trainings}
    for speed, (key, spec) in zip((100.0, 500.0, 300.0, 1.0), trainings.items(), strict=True):
        log = store.begin(TRAINING, key, key, params=record_params(spec), tags={})
        log.finish({"train/images_per_second": speed})
    assert list(measured(recent(store), sweep).values()) == [300.0]


def test_a_field_of_one_method_applies_to_that_method_alone() -> None:
    sweep = of_grid(["moco", "byol"], ["bn"], grid={"moco.queue": [128, 256]}, overrides={"byol.momentum": 0.9})
    flat = [run.flat() for run in sweep.trainings.values()]
    assert sorted((run["method"], run["queue"], run["momentum"]) for run in flat if "queue" in run) == [
        ("moco", 128, 0.95),
        ("moco", 256, 0.95),
    ]
    [byol] = [run for run in flat if run["method"] == "byol"]
    assert byol["momentum"] == 0.9
    assert sweep.tables[0].rows == ("BN / BN · queue 128", "BN / BN · queue 256", "BN / BN")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"tables": ["table9"]}, "unknown table 'table9'"),
        ({"tables": ["tabel1"]}, "did you mean 'table1'"),
        ({"tables": ["table1"], "profile": "quik"}, "did you mean 'quick'"),
        ({"tables": ["table1"], "network": "techer"}, "did you mean 'teacher'"),
        ({"tables": ["table1"], "seeds": 0}, "seeds is 0"),
        ({"tables": ["table1"], "seeds": 1_000_000}, "seeds is 1000000"),
        ({"tables": ["table1"], "seeds": [1, 1]}, "give each seed once"),
        ({"tables": ["table1"], "seeds": [-1]}, "seeds is -1"),
        ({"tables": ["table1"], "overrides": {"seed": 7}}, "seed is not a field of a sweep's runs"),
        ({"tables": ["table1"], "overrides": {"lr": float("nan")}}, "lr is nan"),
        ({"tables": ["table1"], "overrides": {"teacher_norm": "eman"}}, "teacher_norm cannot be overridden in table1"),
        ({"tables": ["table6"], "overrides": {"fixmatch.label_fraction": 0.5}}, "has no effect in table6"),
        ({"tables": ["table1"], "overrides": {"moko.queue": 64}}, "did you mean 'moco'"),
        ({"tables": ["table1"], "overrides": {"held_out": 2000}}, "leaves nothing of the 1,343 training images"),
        ({"tables": ["table1"], "schemes": ["bn"]}, "schemes belong to a grid"),
        ({}, "a grid needs methods and schemes"),
        ({"tables": ["table1"], "name": "table2"}, "neither a table's name nor 'grid'"),
        ({"tables": ["table1"], "name": "schemes"}, "neither a table's name nor 'grid'"),
        ({"tables": ["table1"], "name": "a\nb"}, "printable"),
        ({"methods": ["mocco"], "schemes": ["eman"]}, "did you mean 'moco'"),
        ({"methods": ["moco"], "schemes": ["emann"]}, "did you mean 'eman'"),
        ({"methods": ["moco"], "schemes": ["eman"], "linear_lr": [0.0]}, "linear_lr is 0.0"),
        ({"methods": ["moco"], "schemes": ["eman"], "grid": {"eman_momentum": [2.0]}}, "eman_momentum is 2.0"),
        ({"methods": ["moco"], "schemes": ["bn"], "grid": {"eman_momentum": [0.9]}}, "has no effect on moco with bn"),
        ({"methods": ["moco"], "schemes": ["bn"], "grid": {"lr": [0.1]}, "overrides": {"lr": 0.2}}, "an axis"),
        ({"methods": ["moco"], "schemes": ["bn"], "grid": {"lr": []}}, "at least one value"),
        (
            {"methods": ["moco"], "schemes": ["bn"], "grid": {"lr": [0.1 + i for i in range(999)]}, "seeds": 99},
            "trainings",
        ),
    ],
)
def test_mistakes_are_named_before_anything_runs(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        plan(SweepRequest(**({"profile": "smoke"} | request_)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "sweep",
    [
        of_tables("table1", "table8", seeds=3, overrides={"epochs": 5, "crop_min": 0.9}, network="teacher"),
        of_tables("table1", "schemes", profile="quick", ema_scaling="run"),
        of_tables("table6", overrides={"precision": "float64"}, selection="best", seeds=[3]),
        of_grid(
            ["moco", "byol"], ["bn", "eman"], grid={"eman_momentum": [0.9, 0.99]}, linear_lr=[1.0, 2.0], seeds=[0, 5]
        ),
        of_grid(["moco"], ["bn"], grid={"lr": [0.1, 1e-5], "compile": [True, False]}, name="my sweep"),
    ],
    ids=lambda sweep: sweep.name,
)
def test_a_request_is_kept_and_planned_again(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = sweep.request.model_dump_json()
    assert len(text) < 2000  # a tag holds 8,000 characters
    again = plan(SweepRequest.from_json(text))
    assert again.request == sweep.request
    assert again.key == sweep.key
    assert [table.notes for table in again.tables] == [table.notes for table in sweep.tables]
    words = shlex.split(command(sweep.request))
    assert main([*words[1:], "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"] == sorted(sweep.trainings)


def test_a_machine_of_another_precision_plans_the_same_runs() -> None:
    request = of_tables("table1", profile="quick").request
    other = "float32" if request.precision == "bf16" else "bf16"
    again = plan(request.model_copy(update={"precision": other}))
    assert {spec.network.precision for spec in again.trainings.values()} == {other}


def test_work_grows_with_images_and_passes() -> None:
    assert work(QUICK.run("byol", "eman")) > work(QUICK.run("byol", "eman", overrides={"epochs": 1}))
    assert work(IMAGENET.run("moco", "eman")) > 1000 * work(SMOKE.run("moco", "eman"))
