"""What a run's specification says about its views. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewOptions:
    """Options of views; the fields of the same names are described in the methods' sections.

    Attributes:
        crop_min: Smallest share of an image's area that a crop may take.
        blur_max: Largest sigma of the Gaussian blur in pixels; 0: no blur.
        strong_ops: Operations of RandAugment per image.
        cropped: The images were cropped when they were decoded, by the draws that would have cropped them here.
    """

    crop_min: float
    blur_max: float = 0.0
    strong_ops: int = 0
    cropped: bool = False
