"""What trained runs make of images: two real trainings on the digits, one that classifies and one that does not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eman.cli import main
from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.exchange.predict import Prediction, predict
from eman.evaluation.trained import Trained
from eman.platform.store.records import TRAINING, Record
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home folder with a FixMatch and a MoCo run, both with EMAN."""
    home = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMAN_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for method in ("fixmatch", "moco"):
            assert main(["train", method, "--scheme", "eman", "--profile", "smoke"]) == 0
    return home


@pytest.fixture
def runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    monkeypatch.setenv("EMAN_HOME", str(trained))
    return {record.params["method"]: record for record in Store(Workspace.from_environment()).records(TRAINING)}


def run_of(record: Record, network: str = "student") -> Trained:
    return Trained(record.key, Workspace.from_environment(), network)


def saved(image_AHW: torch.Tensor, path: Path) -> Path:
    Image.fromarray(image_AHW[0].numpy()).save(path)
    return path


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_classifier_gives_the_probabilities_that_its_accuracy_was_measured_by(
    network: str, runs: dict[str, Record], tmp_path: Path
) -> None:
    run = run_of(runs["fixmatch"], network)
    test = run.splits.dataset.test
    paths = [saved(test.read(torch.tensor([n]))[0], tmp_path / f"{n}.png") for n in range(60)]
    found = predict(runs["fixmatch"], Workspace.from_environment(), paths, network=network)
    assert found.votes is None
    assert all(one.changes == () and one.neighbours == () for one in found.images)
    top = [int(one.guesses[0].label) for one in found.images]
    classifier = run.classifier()
    assert classifier is not None
    logits_NK = features.outputs(classifier, test, run.splits.dataset, run.spec.network.precision)
    assert top == logits_NK[:60].argmax(1).tolist()
    for one, expected in zip(found.images, logits_NK[:60].softmax(1).amax(1), strict=True):
        assert one.guesses[0].share == pytest.approx(float(expected), abs=1e-3)
        assert sum(guess.share for guess in one.guesses) == pytest.approx(1.0, abs=1e-5)
        assert [g.share for g in one.guesses] == sorted((g.share for g in one.guesses), reverse=True)
    metric = {"student": "test/top1", "teacher": "test/teacher_top1"}[network]
    accuracy = 100 * float((logits_NK.argmax(1) == test.labels).double().mean())
    assert accuracy == pytest.approx(runs["fixmatch"].metrics[metric], abs=0.3)


def test_a_training_image_is_its_own_nearest_neighbour(runs: dict[str, Record], tmp_path: Path) -> None:
    run = run_of(runs["moco"])
    train = run.splits.train
    places = torch.tensor([0, 7, 300])
    paths = [saved(image, tmp_path / f"{n}.png") for n, image in enumerate(train.read(places))]
    found = predict(runs["moco"], Workspace.from_environment(), paths)
    assert found.votes == 20
    for one, place in zip(found.images, places.tolist(), strict=True):
        first = one.neighbours[0]
        assert (first.index, first.label) == (int(train.ids[place]), str(int(train.labels[place])))
        assert first.similarity == pytest.approx(1.0, abs=1e-3)
        assert [n.similarity for n in one.neighbours] == sorted((n.similarity for n in one.neighbours), reverse=True)
        assert sum(guess.share for guess in one.guesses) == pytest.approx(1.0)


def test_neighbours_vote_as_the_knn_protocol_does(runs: dict[str, Record], tmp_path: Path) -> None:
    run = run_of(runs["moco"])
    test, bank = run.splits.dataset.test, run.features
    paths = [saved(test.read(torch.tensor([n]))[0], tmp_path / f"{n}.png") for n in range(80)]
    found = predict(runs["moco"], Workspace.from_environment(), paths, k=5)
    expected = knn.predict(bank.train_ND, bank.train_labels_N, bank.test_ND[:80], 5).tolist()
    got = [int(one.guesses[0].label) for one in found.images]
    assert sum(a == b for a, b in zip(got, expected, strict=True)) >= 79  # bfloat16 rounds by the batch's size
    assert all(len(one.neighbours) == 5 for one in found.images)


def one(record: Record, path: Path) -> Prediction:
    return predict(record, Workspace.from_environment(), [path]).images[0]


def test_images_of_any_kind_are_made_to_fit_and_it_is_said(runs: dict[str, Record], tmp_path: Path) -> None:
    run = run_of(runs["fixmatch"])
    digit = run.splits.dataset.test.read(torch.tensor([3]))[0, 0].numpy()
    plain = one(runs["fixmatch"], saved(torch.from_numpy(digit)[None], tmp_path / "plain.png"))
    picture = Image.fromarray(digit)
    colours = picture.convert("RGB")
    made: dict[str, tuple[Image.Image, tuple[str, ...]]] = {
        "rgb.png": (colours, ("made grayscale",)),
        "large.png": (picture.resize((64, 64), Image.Resampling.NEAREST), ("resized from 64 x 64",)),
        "palette.gif": (colours.quantize(64), ("made grayscale",)),
        "alpha.png": (colours.convert("RGBA"), ("transparency dropped", "made grayscale")),
        "deep.png": (Image.fromarray(digit.astype(np.uint16) * 257), ("16 bits to 8",)),
    }
    wide = Image.new("RGB", (128, 64))
    wide.paste(colours.resize((64, 64), Image.Resampling.NEAREST), (32, 0))
    made["wide.png"] = (wide, ("made grayscale", "resized from 128 x 64, the middle of it"))
    for name, (content, changes) in made.items():
        content.save(tmp_path / name)
        found = one(runs["fixmatch"], tmp_path / name)
        assert found.changes == changes, name
        assert found.guesses[0].label == plain.guesses[0].label, name
        assert found.guesses[0].share == pytest.approx(plain.guesses[0].share, abs=0.1), name  # resizing blurs
    turned = Image.Exif()
    turned[0x0112] = 3  # held upside down
    colours.rotate(180).save(tmp_path / "turned.png", exif=turned)
    assert one(runs["fixmatch"], tmp_path / "turned.png").guesses[0].label == plain.guesses[0].label


def test_the_command_for_people_and_for_programs(
    runs: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(run_of(runs["moco"]).splits.dataset.test.read(torch.tensor([5]))[0], tmp_path / "five.png")
    both = [str(path), str(path)]
    assert main(["predict", runs["fixmatch"].key[:6], *both, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"BN / EMAN · FixMatch · s0 ({runs['fixmatch'].key[:8]}): the student after the last epoch, probabilities "
        f"(digits)"
    )
    assert lines[1] == str(path)
    assert len(lines) == 1 + 2 * 4
    assert main(["predict", runs["moco"].key, str(path), "--network", "teacher", "--k", "10", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the teacher after the last epoch, votes of the 10 nearest training images (digits)" in lines[0]
    assert lines[2].endswith("votes")
    assert lines[-1].startswith("  nearest: #")
    assert main(["predict", runs["moco"].key, str(path), "--selection", "best", "--json", "--top", "2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["run"], content["selection"], content["votes"]) == (runs["moco"].key, "best", 20)
    [image] = content["images"]
    assert (image["image"], image["changes"], len(image["neighbours"])) == (str(path), [], 2)
    assert set(image["neighbours"][0]) == {"index", "label", "similarity"}
    assert set(image["guesses"][0]) == {"label", "share"}


def test_mistakes_are_one_line(runs: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no image")
    path = saved(run_of(runs["moco"]).splits.dataset.test.read(torch.tensor([5]))[0], tmp_path / "five.png")
    key = runs["moco"].key
    for arguments, message in (
        ([key, str(tmp_path / "none.png")], "none.png; give images"),
        ([key, str(tmp_path / "text.png")], "text.png cannot be read as an image"),
        ([key, str(tmp_path)], "give images"),
        (["zzzz", str(path)], "there is no such run; nearest"),
        ([key, str(path), "--k", "9999"], "k is 9999, and there are"),
        ([key, str(path), "--network", "both"], "both"),
    ):
        assert main(["predict", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
