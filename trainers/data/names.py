"""Names of data sets in specifications and keys.

A data set has a built-in or registered name, the name of a folder of images or shards in the data folder, or the path
or URI of such a folder. In a specification a path becomes ``PATH@HASH`` with the hash of the folder's content
(:func:`resolve`). A key only contains ``BASENAME@HASH`` (:func:`identity`), so it does not depend on where the images
are.
"""

import re

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data.layout import content_hash


def is_path(name: str) -> bool:
    """Return whether a data set's name is a path or URI."""
    return "/" in name or name.startswith((".", "~"))


def resolve(name: str) -> str:
    """Return a data set's name in a specification: the path of a data set becomes ``PATH@HASH``."""
    if not is_path(name) and not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(
            f"dataset is {name!r}; give a built-in name, the name of a folder in the data folder (letters, digits, "
            f"'-', '_' and '.'), or a path such as ./images."
        )
    path, digest = split_hash(name)
    if not is_path(path) or digest:
        return name
    if identity(path) == "..":
        raise UserError(f"dataset is {name!r}, a parent folder; name the folder of images or shards itself.")
    place = Place(path)
    where = str(place.local.resolve()) if place.local is not None else path.rstrip("/")
    return f"{where}@{content_hash(Place(where))}"


def identity(name: str) -> str:
    """Return the part of a data set's name that enters a key: without folders, with the hash."""
    return name.rstrip("/").rpartition("/")[2]


def title(name: str) -> str:
    """Return a data set's display name: of a path, the base name."""
    return identity(split_hash(name)[0])


def split_hash(name: str) -> tuple[str, str | None]:
    """Return the path and the hash of ``PATH@HASH``; of any other name, the name and ``None``."""
    match = re.fullmatch(r"(.*/.*)@([0-9a-f]{16})", name)
    return (match[1], match[2]) if match else (name, None)


def check_index_file(name: str) -> None:
    """Raise :class:`UserError` unless an index file's name is plain: a file in the data set's ``indexes`` folder."""
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise UserError(
            f"label_index is {name!r}; give the name of a file in the data set's folder indexes/, without .csv: "
            f"letters, digits, '-', '_' and '.'."
        )
