"""The methods' losses against plain float64 references, and their entries."""

import math

import pytest
import torch

from eman.platform.errors import UserError
from eman.trainers.losses.byol import BYOL
from eman.trainers.losses.fixmatch import FixMatch
from eman.trainers.losses.moco import MoCo, projector
from eman.trainers.methods.registry import METHODS
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.build import make_spec, resolve_scheme
from eman.trainers.spec.labels import scheme_of


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_fixmatch_loss() -> None:
    spec = make_spec("fixmatch", "eman", {"threshold": 0.5, "unlabelled_weight": 3.0})
    student, teacher = torch.randn(4 + 6, 3), torch.randn(6, 3) * 2
    labels = {"labelled": torch.tensor([0, 1, 2, 0]), "unlabelled": torch.tensor([0, 1, 2, 0, 1, 2])}
    loss, measures = FixMatch(spec.method, 4, generator())([student], [teacher], labels)

    def cross_entropy(logits: torch.Tensor, label: int) -> float:
        exponentials = [math.exp(v) for v in logits.tolist()]
        return -math.log(exponentials[label] / sum(exponentials))

    supervised = sum(cross_entropy(student[i], int(labels["labelled"][i])) for i in range(4)) / 4
    unlabelled, masked, right = 0.0, 0, 0
    for i in range(6):
        exponentials = [math.exp(v) for v in teacher[i].tolist()]
        shares = [e / sum(exponentials) for e in exponentials]
        pseudo = shares.index(max(shares))
        right += pseudo == int(labels["unlabelled"][i])
        if max(shares) >= 0.5:
            masked += 1
            unlabelled += cross_entropy(student[4 + i], pseudo)
    assert float(loss) == pytest.approx(supervised + 3 * unlabelled / 6, rel=1e-5)
    assert float(measures["mask_rate"]) == pytest.approx(masked / 6)
    assert float(measures["pseudo_label_accuracy"]) == pytest.approx(right / 6)


def moco_spec(**fields: object) -> MoCo:
    spec = make_spec("moco", "eman", {"queue": 12, "batch": 4, "devices": 4, "projection_dim": 5, **fields})
    return MoCo(spec.method, 4, generator())


def test_moco_loss_and_queue() -> None:
    moco = moco_spec(temperature=0.5)
    queue = moco.queue_KC.clone()
    query, key = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    loss, measures = moco([query], [key], {})
    q = query.detach().double() / query.detach().double().norm(dim=1, keepdim=True)
    k = key.double() / key.double().norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(4):
        positive = math.exp(float(q[i] @ k[i]) / 0.5)
        negatives = sum(math.exp(float(q[i] @ row) / 0.5) for row in queue.double())
        expected -= math.log(positive / (positive + negatives)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(moco.queue_KC, queue)  # other parts of the batch still need it
    loss.backward()
    leaf = query.detach().double().requires_grad_()
    q = torch.nn.functional.normalize(leaf, dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.double().T], 1) / 0.5
    torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64)).backward()
    torch.testing.assert_close(query.grad.double(), leaf.grad, atol=1e-6, rtol=1e-5)
    assert measures["contrast_accuracy"] == (logits.argmax(1) == 0).double().mean()
    moco.after_step([key])
    torch.testing.assert_close(moco.queue_KC[:4].double(), k, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moco.queue_KC[4:], queue[4:])


def test_symmetric_moco_is_the_sum_of_both_directions_before_either_key_is_queued() -> None:
    moco = moco_spec(symmetric=True, queue=16, temperature=0.5)
    queue = moco.queue_KC.clone().double()
    queries, keys = ([torch.randn(4, 5) for _ in range(2)] for _ in range(2))  # of the two passes
    leaves = [x.clone().requires_grad_() for x in queries]
    loss, measures = moco(leaves, keys, {})
    loss.backward()
    normalized = torch.nn.functional.normalize
    references = [x.double().requires_grad_() for x in queries]
    expected, right = torch.zeros((), dtype=torch.float64), []
    for query, key in zip(references, keys, strict=True):
        q, k = normalized(query, dim=1), normalized(key.double(), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.5
        expected = expected + torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
        right.append((logits.argmax(1) == 0).double().mean())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for leaf, reference in zip(leaves, references, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), reference.grad, atol=1e-6, rtol=1e-5)
    assert float(measures["contrast_accuracy"]) == pytest.approx(float(sum(right)) / 2)
    moco.after_step(keys)
    expected_queue = torch.cat([*(normalized(key.double(), dim=1) for key in keys), queue[8:]])
    torch.testing.assert_close(moco.queue_KC.double(), expected_queue, atol=1e-6, rtol=1e-5)
    assert moco.pointer == 8


def test_symmetric_moco_exchanges_the_views() -> None:
    entry, fields = METHODS["moco"], {"queue": 512, "batch": 256}
    plain, symmetric = (make_spec("moco", "eman", {**fields, "symmetric": both}).method for both in (False, True))
    assert (entry.student_passes(plain), entry.teacher_passes(plain)) == ((("query",),), (("key",),))
    assert entry.student_passes(symmetric) == (("query",), ("key",))
    assert entry.teacher_passes(symmetric) == (("key",), ("query",))
    with pytest.raises(UserError, match="twice the batch of 256 does not divide; give a multiple of 512"):
        make_spec("moco", "eman", {**fields, "queue": 768, "symmetric": True})


def test_mocos_projector_may_be_one_linear_layer() -> None:
    linear = make_spec("moco", "eman", {"linear_projector": True})
    assert linear.replace(hidden_dim=64) == linear
    heads = projector(linear.method, 512, 0)
    assert [tuple(p.shape) for p in heads["projector"].parameters()] == [(128, 512), (128,)]


def test_moco_queue_is_a_ring() -> None:
    moco = moco_spec()
    for number in range(4):
        moco.after_step([torch.eye(5)[[number] * 4]])
    assert moco.queue_KC.argmax(1).tolist() == [3] * 4 + [1] * 4 + [2] * 4
    assert moco.pointer == 4


def test_byol_loss() -> None:
    spec = make_spec("byol", "eman", {})
    student, teacher = [torch.randn(6, 5) for _ in range(2)], [torch.randn(6, 5) for _ in range(2)]
    loss, _ = BYOL(spec.method, 4, generator())(student, teacher, {})
    expected = 0.0
    for p, z in ((student[0], teacher[1]), (student[1], teacher[0])):
        for a, b in zip(p.double(), z.double(), strict=True):
            expected += (2 - 2 * float(a @ b) / float(a.norm() * b.norm())) / 6
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_default_scheme_is_another_row_where_the_paper_says_so() -> None:
    assert resolve_scheme("moco", "default") is SCHEMES["shufflebn"]
    assert resolve_scheme("byol", "default") is SCHEMES["syncbn"]
    assert resolve_scheme("fixmatch", "default") is SCHEMES["default"]


def test_scheme_is_found_again_from_the_fields() -> None:
    for scheme in SCHEMES.values():
        assert scheme_of(make_spec("fixmatch", scheme, {})) is scheme
    assert scheme_of(make_spec("moco", "eman", {"eman_momentum": 0.5})).title == "BN / EMAN (m=0.5)"


def test_official_values() -> None:
    fixmatch, moco, byol = (make_spec(method, "default", {}).flat() for method in ("fixmatch", "moco", "byol"))
    names = ("labelled_batch", "batch", "lr", "threshold", "unlabelled_weight")
    assert [fixmatch[name] for name in names] == [64, 320, 0.03, 0.7, 10.0]
    names = ("queue", "temperature", "momentum", "batch", "projection_dim")
    assert [moco[name] for name in names] == [65536, 0.2, 0.999, 256, 128]
    names = ("batch", "lr", "momentum", "weight_decay", "optimizer", "epochs")
    assert [byol[name] for name in names] == [512, 1.8, 0.98, 1e-6, "lars", 50]


def test_a_field_of_another_method_is_refused() -> None:
    with pytest.raises(UserError, match="queue is not a field of byol"):
        make_spec("byol", "eman", {"queue": 512})


def test_eman_with_the_parameters_momentum_is_the_same_run() -> None:
    assert make_spec("moco", "eman", {"eman_momentum": 0.999}).key == make_spec("moco", "eman", {}).key
    assert make_spec("byol", "eman", {"eman_momentum": 0.98}).key != make_spec("byol", "eman", {}).key  # it rises


def test_only_some_methods_have_a_teacher() -> None:
    assert [name for name, method in METHODS.items() if not method.teacher] == ["supervised"]
