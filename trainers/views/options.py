"""Options of views, from a run's specification. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewOptions:
    """Options of views; the methods' sections describe the fields of the same names.

    Attributes:
        crop_min: Smallest area of a random resized crop, as a fraction of the image's.
        crop_padding: Shift images by up to this fraction of their side instead of that crop; ``None`` for the crop.
        blur_max: Largest standard deviation of the Gaussian blur in pixels; 0 for no blur.
        strong_ops: RandAugment operations per image.
        strong_pool: Name of their pool, in :data:`eman.trainers.views.randaugment.POOLS`.
        cutout: Largest side of the gray square on the strong view, as a fraction of the image's width; 0 for none.
        cropped: Whether images were already cropped when they were decoded, with the same draws.
    """

    crop_min: float
    crop_padding: float | None = None
    blur_max: float = 0.0
    strong_ops: int = 0
    strong_pool: str = "imagenet"
    cutout: float = 0.0
    cropped: bool = False
