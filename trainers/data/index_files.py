"""Index files, which list the labelled images of a data set. Read without its images and without torch."""

import csv

from eman.platform.errors import UserError, first_line
from eman.platform.workspace import Workspace
from eman.trainers.data.catalog import KNOWN, place_of
from eman.trainers.data.names import check_index_file, title


def read_index(dataset: str, file: str, workspace: Workspace) -> list[int]:
    """Return the indices of the images that ``indexes/FILE.csv`` in a data set's folder lists.

    Its column ``Index`` holds indices in ImageFolder's order of the training images, as in the official code's files.

    Args:
        dataset: Name of the data set.
        file: Name of the file, without ``.csv``.
        workspace: Location of data sets.

    Raises:
        UserError: The file or its column is missing, or an entry is not the index of a training image.
    """
    check_index_file(file)
    place = place_of(dataset, workspace) / "indexes" / f"{file}.csv"
    try:
        with place.open() as stream:
            text = bytes(stream.read()).decode("utf-8-sig")
        images = [int(row["Index"]) for row in csv.DictReader(text.splitlines())]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"label_index is {file!r}, and {place} is not a CSV file with a column Index ({first_line(error)})."
        ) from error
    most = KNOWN[dataset].train if dataset in KNOWN else None
    for image in images:
        if image < 0 or (most is not None and image >= most):
            allowed = "numbers from 0" if most is None else f"the {most:,} training images of {title(dataset)}"
            raise UserError(f"{place} lists image {image}, which is not among {allowed}.")
    if not images:
        raise UserError(f"{place} lists no image.")
    return images
