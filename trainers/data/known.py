"""Built-in data sets and their sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The size of a data set.

    Attributes:
        train, test: Number of images with labels.
        classes: Number of classes.
        channels: Channels of an image.
        pixels: Height and width of images in memory; ``None`` if images are cropped to ``image_size``.
        unlabelled: Number of further training images without labels.
    """

    train: int
    test: int
    classes: int
    channels: int = 3
    pixels: int | None = None
    unlabelled: int = 0


#: Data sets that are held in memory.
IN_MEMORY = {
    "digits": Sizes(1_343, 454, 10, channels=1, pixels=16),
    "fashion-mnist": Sizes(60_000, 10_000, 10, channels=1, pixels=28),
    "cifar10": Sizes(50_000, 10_000, 10, pixels=32),
    "cifar100": Sizes(50_000, 10_000, 100, pixels=32),
    "stl10": Sizes(5_000, 8_000, 10, pixels=96, unlabelled=100_000),
    "synthetic-gray": Sizes(60_000, 10_000, 10, channels=1, pixels=28),
}

#: Data sets whose images stay in files or shards.
STORED = {
    "imagenet": Sizes(1_281_167, 50_000, 1_000),
    "inaturalist": Sizes(2_686_843, 100_000, 10_000),
    "imagenette2-160": Sizes(9_469, 3_925, 10),
    "imagenette2-320": Sizes(9_469, 3_925, 10),
    "voc2007": Sizes(5_011, 4_952, 20),
}

#: What to do if a stored data set is missing.
HOW_TO_GET = {
    "voc2007": "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar there",
    **{
        f"imagenette2-{size}": "unpack this archive in the folder above it: "
        f"https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-{size}.tgz"
        for size in (160, 320)
    },
}

#: Every built-in data set. ``synthetic`` is generated at any image size, to measure throughput, and ``synthetic-gray``
#: with the number and size of Fashion-MNIST's images.
KNOWN = {**IN_MEMORY, **STORED, "synthetic": Sizes(2_048, 256, 10)}
