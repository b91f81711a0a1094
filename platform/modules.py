"""Modules of one's own: find them, import each once per process, and send their source to other processes.

A module is a Python file, a package's folder, or a dotted name. Processes on other machines need not have it:
:func:`sources` returns its files as they were when it was imported, and :func:`install` imports the same files there.
"""

import hashlib
import importlib
import importlib.util
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from eman.platform.errors import UserError

#: Entry points by which an installed package names modules to load.
GROUP = "eman.plugins"

#: Largest size of a module's files, which travel with every job.
MAX_BYTES = 2**24

#: Beginning of the tags that record modules in a run.
TAG = "eman.module."

#: Top-level name of the module that is the program itself, which no other process can import.
SCRIPT = "__main__"


@dataclass(frozen=True)
class Source:
    """A module's files.

    Attributes:
        name: Top-level name.
        path: The file, or the package's folder, on the machine that imported it first; empty if there is none.
        files: Contents by path, relative to the folder that holds the file or the package.
        imported: Dotted names that were imported.
    """

    name: str
    path: str
    files: tuple[tuple[str, bytes], ...]
    imported: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of its files. A single file's name does not count: `eman submit`
        sends it as a package.
        """
        sha = hashlib.sha256()
        for name, content in self.files:
            sha.update(f"{name if len(self.files) > 1 else ''}\0{len(content)}\0".encode() + content)
        return sha.hexdigest()[:16]

    @property
    def version(self) -> str:
        """Its ``__version__``; empty if it has none."""
        return str(getattr(sys.modules.get(self.name), "__version__", ""))


#: The files of every module that was loaded, or that registered an entry, by top-level name.
_sources: dict[str, Source] = {}

#: Modules as the command named them.
_words: list[str] = []


def load(words: Iterable[str], *, given: bool = False) -> None:
    """Import modules, given as files, package folders or dotted names.

    Args:
        words: The modules.
        given: Whether the command names them, so that :func:`arguments` repeats them.

    Raises:
        UserError: A module does not exist, its name is taken, or importing it fails; with file and line.
    """
    for word in words:
        path = Path(word).expanduser()
        if path.suffix == ".py" or path.is_dir() or "/" in word:
            name = _load_path(word, path.resolve())
        else:
            name = _load_name(word)
        _add(name)
        if given and word not in _words:
            _words.append(word)


def load_installed() -> None:
    """Import the modules that installed packages name by the entry-point group ``eman.plugins``."""
    for entry in entry_points(group=GROUP):
        if entry.module not in sys.modules:
            _add(_load_name(entry.module))


def configured(folder: Path) -> list[str]:
    """Return ``modules`` of ``[tool.eman]`` in the nearest ``pyproject.toml`` above a folder; paths are made absolute.

    Raises:
        UserError: The file cannot be read, or the value is not a list of text.
    """
    path = next((p for f in (folder, *folder.parents) if (p := f / "pyproject.toml").is_file()), None)
    if path is None:
        return []
    import tomllib  # here: `from eman import Teacher` imports as little as it can

    try:
        words = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("eman", {}).get("modules", [])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f'{path}: modules of [tool.eman] is {words!r}; give a list such as ["my_study.py"].')
    return [str(path.parent / word) if word.endswith(".py") or "/" in word else word for word in words]


def arguments() -> list[str]:
    """Return the options by which the command named modules."""
    return [part for word in _words for part in ("--module", word)]


def note(name: str) -> str:
    """Keep the files of the module with this dotted name, and that it is imported; return its top-level name."""
    top = name.partition(".")[0]
    if top and (top not in _sources or name not in _sources[top].imported):
        _add(name)
    return top


def tags(names: Iterable[str]) -> dict[str, str]:
    """Return the tags that record modules in a run: version, if there is one, and digest, by ``eman.module.NAME``."""
    found = [_sources[name] for name in sorted(set(names) - {""})]
    return {f"{TAG}{source.name}": f"{source.version} sha256:{source.digest}".strip() for source in found}


def check_loaded(tags_of_run: Mapping[str, str], what: str) -> None:
    """Raise :class:`UserError` if a run's tags name a module that this process has not loaded; `what` is the run."""
    for tag in sorted(tags_of_run):
        name = tag.removeprefix(TAG)
        if tag.startswith(TAG) and name not in _sources:
            raise UserError(f"{what} uses module {name}, which is not loaded; give it by --module.")


def sources() -> tuple[Source, ...]:
    """Return every module whose files other processes need.

    Raises:
        UserError: The program itself, or a notebook, has registered an entry.
    """
    if SCRIPT in _sources:
        raise UserError(
            "something is registered in the program itself, which Ray's processes cannot import; move it into a file "
            "of its own, and import that file or give it as a module."
        )
    return tuple(_sources.values())


def install(shipped: Sequence[Source]) -> None:
    """Import modules that another process has sent, each once. Files that are here and equal are used in place."""
    for source in shipped:
        if source.name in _sources:
            continue
        _sources[source.name] = source
        here = Path(source.path)
        if not source.path or _read(here) != source.files:
            here = _written(source)
        _make_importable(here, first=True)
        for name in source.imported:
            importlib.import_module(name)


class Shipment:
    """All modules of this process. Unpickling it imports them, so that what is unpickled after it finds its classes."""

    def __reduce__(self) -> tuple[Callable[[Sequence[Source]], None], tuple[tuple[Source, ...]]]:
        return install, (sources(),)


def _written(source: Source) -> Path:
    """Write a module's files into a new folder, and return where the file or package is in it."""
    folder = Path(tempfile.mkdtemp(prefix="eman-module-"))
    for name, content in source.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / Path(source.path).name


def _make_importable(path: Path, *, first: bool) -> None:
    """Let this process, and those that it starts, import a file or package by its name."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0 if first else len(sys.path), folder)
        importlib.invalidate_caches()


def _load_path(word: str, path: Path) -> str:
    name = path.stem if path.suffix == ".py" else path.name
    if not (path.is_file() or (path / "__init__.py").is_file()):
        what = "is a folder without __init__.py" if path.is_dir() else "does not exist"
        raise UserError(f"--module {word}: {path} {what}; give a Python file, a package's folder or a dotted name.")
    if not name.isidentifier():
        raise UserError(f"--module {word}: {name!r} cannot be a module's name; rename it, for example my_study.py.")
    before = list(sys.path)
    try:
        _make_importable(path, first=False)
        if _found(name) != path:
            raise UserError(f"--module {word}: there is another module named {name}; rename the file.")
        _import(name, word, path)
    except UserError:
        sys.path[:] = before
        raise
    return name


def _import(name: str, word: str, path: Path) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        raise _failure(word, error, path) from error


def _found(name: str) -> Path | None:
    """Return the location of the module that ``import name`` imports, or has imported."""
    if name in sys.modules:
        return _path_of(sys.modules[name])
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    where = spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin
    return Path(where).resolve() if where else None


def _load_name(word: str) -> str:
    if not all(part.isidentifier() for part in word.split(".")):
        raise UserError(f"--module {word}: give a Python file, a package's folder or a dotted name.")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(word)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{word}.".startswith(f"{error.name}."):
            raise _failure(word, error, None) from error
        raise UserError(
            f"--module {word}: there is no module {error.name}; give a Python file, or install the package."
        ) from None
    except Exception as error:
        raise _failure(word, error, None) from error
    return word


def _failure(word: str, error: Exception, path: Path | None) -> UserError:
    """Return the error of an import: file and line of the module's own code, and the reason."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    package = str(Path(__file__).resolve().parent.parent)
    own = [f for f in frames if path is not None and Path(f.filename).resolve().is_relative_to(path)]
    own = own or [f for f in frames if not str(Path(f.filename).resolve()).startswith(package)]
    where, line = (own[-1].filename, own[-1].lineno) if own else (word, 0)
    if isinstance(error, SyntaxError) and error.filename:
        where, line = error.filename, error.lineno
    reason = str(error).strip().splitlines()[0][:400] if str(error).strip() else "no message"
    named = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return UserError(f"module {word} cannot be imported: {where}:{line}: {named}{reason}")


def _add(name: str) -> None:
    """Keep a module's files, and that it was imported by this dotted name."""
    top = name.partition(".")[0]
    known, module = _sources.get(top), sys.modules.get(top)
    if known is None:
        path = None if module is None else _path_of(module)
        files = () if path is None or top == SCRIPT else _read(path)
        size = sum(len(content) for _, content in files)
        if size > MAX_BYTES:
            raise UserError(
                f"module {top}: its files take {size / 2**20:.0f} MiB, and at most {MAX_BYTES / 2**20:.0f} MiB travel "
                f"with a job; keep data out of {path}."
            )
        known = Source(top, str(path or ""), files, ())
    if name not in known.imported:
        known = Source(known.name, known.path, known.files, (*known.imported, name))
    _sources[top] = known


def _path_of(module: ModuleType) -> Path | None:
    """Return a module's file, or its package's folder."""
    folders = list(getattr(module, "__path__", ()))
    where = folders[0] if folders else getattr(module, "__file__", None)
    return Path(where).resolve() if where else None


def _read(path: Path) -> tuple[tuple[str, bytes], ...]:
    """Return the files of a module as in :class:`Source`; none if it is not there."""
    if path.is_file():
        return ((path.name, path.read_bytes()),)
    found = sorted(p for p in path.rglob("*") if p.is_file() and not _skipped(p.relative_to(path)))
    return tuple((str(p.relative_to(path.parent)), p.read_bytes()) for p in found)


def _skipped(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)
