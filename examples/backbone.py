"""A network of one's own as a backbone, and any of timm's or torchvision's by name, on a folder of images.

``python backbone.py`` writes scikit-learn's digits as PNG files into ``images/train/CLASS`` and ``images/val/CLASS``::

    eman train moco --scheme eman --set backbone=tiny --set dataset=./images --set image_size=16 --module backbone.py
    eman train moco --scheme eman --set backbone=timm:test_resnet --set dataset=./images --set image_size=32

Shapes: B images, A channels, D features.
"""

from pathlib import Path

from torch import nn

from eman.api import register_backbone


def tiny(channels: int) -> nn.Module:
    """Build any network from images ``(B, A, H, W)`` to features ``(B, D)``. The scheme replaces its norms."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


register_backbone("tiny", tiny, features=32)


def write_images(folder: Path) -> None:
    """Write images as PNG files, in the layout of ImageNet: a folder for each class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / ("val" if number % 5 == 0 else "train") / f"digit-{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).resize((32, 32)).save(place / f"{number}.png")


if __name__ == "__main__":
    write_images(Path("images"))
