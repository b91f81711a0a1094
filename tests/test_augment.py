"""Views against torchvision, and their randomness."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from eman.trainers.views import transforms
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws
from eman.trainers.views.options import ViewOptions
from eman.trainers.views.randaugment import POOLS, Pool, apply_operations, randaugment
from eman.trainers.views.views import VIEWS

OPTIONS = ViewOptions(crop_min=0.2, blur_max=1.0, strong_ops=2)
PUBLISHED = ViewOptions(crop_min=1, crop_padding=1 / 8, strong_ops=3, strong_pool="cifar", cutout=0.5)


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
@pytest.mark.parametrize("options", [OPTIONS, PUBLISHED], ids=["resized", "padded"])
def test_a_view_does_not_depend_on_the_slicing_of_the_batch(name: str, channels: int, options: ViewOptions) -> None:
    x, view = images(12, channels), VIEWS[name]
    whole = view(x, draws(12), options)
    parts = [view(x[i : i + 4], draws(4, first=i), options) for i in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))  # to the last bit: operations with thresholds amplify it
    assert not torch.allclose(whole, view(x, draws(12, epoch=1), options))
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


def test_a_move_is_torchvisions_crop_of_an_image_padded_by_reflection() -> None:
    x = images(6, 3, 20, 16)
    moves = [0, 1, -4, 4, 2, -3], [0, -2, 4, 4, -4, 1]
    flipped = torch.arange(6) % 2 == 1
    ours = transforms.move_and_flip(x, tuple(map(torch.tensor, moves)), flipped)
    padded = tv.pad(x, [4, 4, 4, 4], padding_mode="reflect")
    for i, (down, right) in enumerate(zip(*moves, strict=True)):
        theirs = tv.crop(padded[i], 4 + down, 4 + right, 20, 16)
        assert torch.equal(ours[i], theirs.flip(2) if flipped[i] else theirs)


def test_padded_crops_move_by_every_number_of_pixels_alike() -> None:
    x = torch.arange(16.0).expand(4000, 1, 16, 16) / 15  # columns
    out = VIEWS["weak"](torch.stack([x[:, 0], x[:, 0].transpose(1, 2)], 1), draws(4000), PUBLISHED)
    flipped = out[:, 0, 8, 8] < out[:, 0, 8, 7]
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.03)
    columns = torch.where(flipped, out[:, 0, 8, 8], out[:, 0, 8, 7]) * 15 - 7
    for moved in (columns, out[:, 1, 7, 8] * 15 - 7):
        counts = torch.bincount(moved.round().long() + 2, minlength=5)
        assert len(counts) == 5  # 2 pixels of 16 to both sides
        assert (counts / 4000 - 0.2).abs().max() < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_is_what_pillow_draws(channels: int) -> None:
    """As the public versions of FixMatch call it, from a random middle and side; a side of 0 draws nothing."""
    random = np.random.default_rng(0)
    height, width = 33, 47
    shape = (height, width, channels)
    count = 300
    side_B, row_B, column_B = (random.uniform(0, most, count) for most in (width / 2, height, width))
    side_B[0] = 0
    x = torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))
    middle = [torch.from_numpy(values).float() for values in (row_B, column_B, side_B)]
    ours = transforms.cutout(x.permute(0, 3, 1, 2).float() / 255, *middle)
    for n in range(count):
        image = Image.fromarray(x[n].numpy().squeeze())
        row, column, side = (float(values[n]) for values in middle)
        left, top = int(max(0, column - side / 2)), int(max(0, row - side / 2))
        if side > 0:
            corners = (left, top, min(width, left + side), min(height, top + side))
            ImageDraw.Draw(image).rectangle(corners, (125, 123, 114) if channels == 3 else 123)
        theirs = torch.from_numpy(np.array(image).reshape(shape)).permute(2, 0, 1)
        assert torch.equal((ours[n] * 255).round().byte(), theirs), n


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


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions_on_a_repeated_border_and_pillows_to_a_level(sigma: float) -> None:
    """Pillow approximates the Gaussian by box filters."""
    x = (torch.nn.functional.interpolate(images(3, height=6, width=5), (24, 20), mode="bilinear") * 255).round() / 255
    ours = transforms.blur(x, torch.tensor([sigma, 0.0, sigma]), 2.0)
    padded = tv.pad(x, [16, 16, 16, 16], padding_mode="edge")
    theirs = tv.gaussian_blur(padded, [17, 17], [sigma, sigma])[..., 16:-16, 16:-16]
    torch.testing.assert_close(ours[::2], theirs[::2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1], x[1], atol=0, rtol=0)
    image = Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy())
    pillow = torch.from_numpy(np.array(image.filter(ImageFilter.GaussianBlur(sigma)))).permute(2, 0, 1)
    difference = (ours[0] * 255 - pillow).abs()
    assert difference.mean() < 1
    assert difference.max() < 8


@pytest.mark.parametrize(("height", "width"), [(1, 50), (50, 1), (2, 3), (3, 2), (5, 7), (7, 5), (4, 300), (300, 4)])
def test_crop_boxes_are_torchvisions_at_extreme_ratios(height: int, width: int) -> None:
    """Every box that either gives is given by the other, also where some tries fit."""
    ours = torch.stack(augment.crop_boxes(draws(4000), height, width, 0.2), 1)
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.2, 1], [3 / 4, 4 / 3]) for _ in range(4000)]).float()
    rare = 12 / 4000  # a box this rare may be missing from 4,000 by chance
    for mine, other in ((ours, theirs), (theirs, ours)):
        boxes, counts = mine.unique(dim=0, return_counts=True)
        others = {tuple(box) for box in other.tolist()}
        assert all(tuple(box) in others for box in boxes[counts > rare * 4000].tolist())
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (64, 64), (75, 100)])
def test_crop_boxes_are_torchvisions(height: int, width: int) -> None:
    """In distribution, and in the box that replaces ten tries of which none fits."""
    ours = torch.stack(augment.crop_boxes(draws(3000), height, width, 0.9), 1)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(torch.zeros(1, height, width), [0.9, 1], [3 / 4, 4 / 3]) for _ in range(3000)]
    ).float()
    if height not in (64, 75):  # only the replacement is possible
        assert torch.equal(ours.unique(dim=0), theirs.unique(dim=0))
        return
    for column in range(4):
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 4 * theirs[:, column].std() / 3000**0.5 + 0.02


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


def pillow(name: str, image: Image.Image, level: float, positive: bool, pool: Pool) -> Image.Image:
    """Apply an operation as the PyTorch versions of FixMatch do."""

    def whole(pixels: float) -> float:
        return int(pixels) if pool.tenths else pixels

    signed, factor = level / 10 * (1 if positive else -1), pool.low + pool.span * level / 10

    def affine(*map_6: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, map_6)

    def add() -> Image.Image:
        moved = np.array(image).astype(int) + (1 if positive else -1) * int(level * 110 / 10)
        return ImageOps.solarize(Image.fromarray(moved.clip(0, 255).astype(np.uint8)), 128)

    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "equalize": lambda: ImageOps.equalize(image),
        "identity": lambda: image,
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, int(level * 4 / 10) + 4),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        "solarize_add": add,
        "rotate": lambda: image.rotate(signed * 30),
        "shear_x": lambda: affine(1, signed * 0.3, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, signed * 0.3, 1, 0),
        "translate_x": lambda: affine(1, 0, whole(signed * pool.shift * image.width), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, whole(signed * pool.shift * image.height)),
    }[name]()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (33, 47)])
def test_every_operation_of_randaugment_is_pillows_byte_for_byte(channels: int, height: int, width: int) -> None:
    """At all magnitudes (a few, where they are continuous), both signs; on noise, low contrast, a constant, a ramp."""
    random = np.random.default_rng(0)
    shape = (height, width, channels)
    kinds = [
        random.integers(0, 256, shape),
        random.integers(60, 180, shape),
        random.normal(100, 40, shape).clip(0, 255),
        np.full(shape, 77),
        np.linspace(0, 255, height * width * channels).reshape(shape),
    ]
    x = torch.from_numpy(np.stack(kinds).astype(np.int32)).permute(0, 3, 1, 2)
    squeezed = [Image.fromarray(kind.astype(np.uint8).squeeze()) for kind in kinds]
    every = torch.ones(len(kinds))
    for pool in POOLS.values():
        for number, name in enumerate(pool.operations):
            levels = range(1, 10) if pool.tenths else [0.0, 0.7, 1.93, 3.3, 4.62, 5.01, 7.77, 8.4, 9.99]
            for level, positive in itertools.product(levels, (True, False)):
                arguments = (every.long() * number, every.double() * level / 10, every.bool() == positive)
                ours = apply_operations(x, *arguments, pool)
                theirs = np.stack([np.array(pillow(name, image, level, positive, pool)) for image in squeezed])
                expected = torch.from_numpy(theirs.reshape(len(kinds), *shape)).permute(0, 3, 1, 2)
                assert torch.equal(ours, expected.int()), (name, level, positive)


@pytest.mark.parametrize(("pool", "size"), [("imagenet", 16), ("cifar", 14)])
def test_every_operation_of_a_pool_is_drawn_and_changes_something(pool: str, size: int) -> None:
    operations = POOLS[pool].operations
    assert len(operations) == size
    x = bytes_like(1).expand(3000, -1, -1, -1)
    out = randaugment(x, draws(3000), 1, POOLS[pool])
    operation = torch.floor(draws(3000)(3)[:, 0] * size).long()
    for number, name in enumerate(operations):
        chosen = operation == number
        assert 100 < int(chosen.sum()) < 300
        assert torch.equal(out[chosen], x[chosen]) == (name == "identity"), name


def test_normalization_gives_zero_mean_and_unit_variance() -> None:
    x = images(50)
    y = transforms.normalize(x, tuple(x.mean((0, 2, 3)).tolist()), tuple(x.std((0, 2, 3)).tolist()))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
