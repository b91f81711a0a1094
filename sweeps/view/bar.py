"""The progress bar of `eman train`."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import Progress


class TrainingBar:
    """Lines on standard error and, on a terminal, a bar below them."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._progress = Progress(console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._progress.add_task("loading data", total=None)

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, share: float) -> None:
        """Show the completed share of the run."""
        self._progress.update(self._task, description="training", completed=share, total=1.0)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)
