"""Views against torchvision, and their randomness."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from eman.trainers.views import randaugment, transforms
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws
from eman.trainers.views.options import ViewOptions
from eman.trainers.views.randaugment import RANDAUGMENT_POOL
from eman.trainers.views.views import VIEWS

OPTIONS = ViewOptions(crop_min=0.2, blur_max=1.0, strong_ops=2)


def images(n: int = 6, channels: int = 3, height: int = 20, width: int = 16) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


def bytes_like(n: int = 6) -> torch.Tensor:
    return (images(n) * 255).round() / 255


def draws(n: int, *, seed: int = 0, epoch: int = 0, view: int = 0, first: int = 0) -> Draws:
    return Draws(seed, torch.full((n,), epoch), torch.arange(first, first + n), view)


def test_draws_are_uniform_and_independent() -> None:
    u = draws(4000)(8)
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.01)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.003)
    histogram = torch.histc(u, 20, 0, 1) / u.numel()
    assert (histogram - 0.05).abs().max() < 0.005
    correlation = torch.corrcoef(u.T) - torch.eye(8)
    assert correlation.abs().max() < 0.06


def test_draws_do_not_depend_on_how_many_are_asked_for_at_once() -> None:
    ids = torch.arange(5)
    whole = Draws(0, ids * 0, ids, 0)._draw(0, 100)
    draws = Draws(0, ids * 0, ids, 0)
    assert torch.equal(torch.cat([draws(number) for number in (1, 38, 2, 1, 20, 38)], 1), whole)


def test_each_argument_gives_other_draws() -> None:
    base = draws(500)(1)[:, 0]
    for other in (draws(500, seed=1), draws(500, epoch=1), draws(500, view=1), draws(500, first=500)):
        assert torch.corrcoef(torch.stack([base, other(1)[:, 0]]))[0, 1].abs() < 0.15


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_does_not_depend_on_the_slicing_of_the_batch(name: str, channels: int) -> None:
    x, view = images(12, channels), VIEWS[name]
    whole = view(x, draws(12), OPTIONS)
    parts = [view(x[i : i + 4], draws(4, first=i), OPTIONS) for i in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))  # to the last bit: operations with thresholds amplify it
    assert not torch.allclose(whole, view(x, draws(12, epoch=1), OPTIONS))
    assert whole.shape == x.shape
    assert whole.min() >= -1e-6
    assert whole.max() <= 1 + 1e-6


def test_crop_is_torchvisions_resized_crop() -> None:
    x = images()
    top, left, h, w = (
        torch.tensor(v).float()
        for v in ([0, 3, 5, 1, 0, 9], [0, 2, 7, 4, 1, 0], [20, 9, 14, 3, 7, 11], [16, 5, 9, 12, 15, 2])
    )
    flipped = torch.arange(6) % 2 == 1
    ours = transforms.crop_and_flip(x, (top, left, h, w), flipped)
    for i in range(6):
        theirs = tv.resized_crop(x[i], int(top[i]), int(left[i]), int(h[i]), int(w[i]), [20, 16], antialias=True)
        theirs = theirs.flip(2) if flipped[i] else theirs
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=1e-5)


def test_shrinking_is_antialiased() -> None:
    x = images(1, 1, 40, 40)
    matrix = transforms.resize_matrix(torch.tensor([4.0]), torch.tensor([32.0]), 40, 8)
    ours = transforms._from_both_sides(matrix, x, matrix)
    theirs = tv.resized_crop(x[0], 4, 4, 32, 32, [8, 8], antialias=True)
    torch.testing.assert_close(ours[0], theirs, atol=1e-5, rtol=1e-5)


def test_crop_boxes_have_the_asked_area_and_ratio() -> None:
    top, left, h, w = augment.crop_boxes(draws(2000), 64, 64, 0.2)
    area, ratio = h * w / 64**2, w / h
    assert area.min() > 0.18
    assert area.max() <= 1
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4
    assert ((top >= 0) & (top + h <= 64) & (left >= 0) & (left + w <= 64)).all()


def test_blur_is_torchvisions() -> None:
    x, sigma = images(), torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 0.5])
    apply = torch.tensor([True, True, True, True, True, False])
    ours = transforms.blur(x, sigma, apply)
    for i in range(5):
        torch.testing.assert_close(ours[i], tv.gaussian_blur(x[i], [7, 7], [float(sigma[i])] * 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[5], x[5])


@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (transforms.brightness, tv.adjust_brightness, [0.5, 0.8, 1.0, 1.2, 1.4, 1.6]),
        (transforms.contrast, tv.adjust_contrast, [0.5, 0.8, 1.0, 1.2, 1.4, 1.6]),
        (transforms.saturation, tv.adjust_saturation, [0.5, 0.8, 1.0, 1.2, 1.4, 1.6]),
        (transforms.hue, tv.adjust_hue, [-0.5, -0.1, 0.0, 0.05, 0.1, 0.4]),
    ],
)
def test_colour_changes_are_torchvisions(ours: object, theirs: object, amounts: list[float]) -> None:
    x = images()
    changed = ours(x, torch.tensor(amounts))  # type: ignore[operator]
    for i, amount in enumerate(amounts):
        torch.testing.assert_close(changed[i], theirs(x[i], amount), atol=2e-4, rtol=1e-3)  # type: ignore[operator]


def test_histogram_operations_are_torchvisions_on_bytes() -> None:
    x = bytes_like() * 0.7 + 0.1
    x = (x * 255).round() / 255
    level = torch.full((6,), 0.5)
    as_bytes = (x * 255).round().to(torch.uint8)
    torch.testing.assert_close(randaugment._equalize(x, level) * 255, tv.equalize(as_bytes).float(), atol=1.01, rtol=0)
    torch.testing.assert_close(
        randaugment._posterize(x, level) * 255, tv.posterize(as_bytes, 6).float(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(randaugment._autocontrast(x, level), tv.autocontrast(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(randaugment._solarize(x, level), tv.solarize(x, 0.5), atol=1e-6, rtol=0)


def test_sharpness_is_torchvisions() -> None:
    x = images()
    torch.testing.assert_close(
        randaugment._sharpness(x, torch.full((6,), 0.5)), tv.adjust_sharpness(x, 0.5), atol=1e-5, rtol=1e-5
    )


def test_every_operation_of_the_pool_is_drawn_and_changes_something() -> None:
    assert len(RANDAUGMENT_POOL) == 16
    x = bytes_like(1).expand(3000, -1, -1, -1)
    out = randaugment.randaugment(x, draws(3000), 1)
    operation = torch.floor(draws(3000)(3)[:, 0] * 16).long()
    for number, name in enumerate(RANDAUGMENT_POOL):
        chosen = operation == number
        assert 100 < int(chosen.sum()) < 300
        assert torch.equal(out[chosen], x[chosen]) == (name == "identity"), name


def test_translation_moves_by_whole_pixels() -> None:
    x = images(2, 1, 20, 20)
    out = randaugment.affine(x, torch.tensor([3, 4]), torch.tensor([2 / 9, -1 / 9]))  # 0.45 * 2/9 of 20 pixels: 2; -1
    torch.testing.assert_close(out[0, :, :, :-2], x[0, :, :, 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1, :, 1:], x[1, :, :-1], atol=1e-5, rtol=1e-5)


def test_normalization_gives_zero_mean_and_unit_variance() -> None:
    x = images(50)
    y = transforms.normalize(x, tuple(x.mean((0, 2, 3)).tolist()), tuple(x.std((0, 2, 3)).tolist()))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
