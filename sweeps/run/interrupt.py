"""Signals that stop a sweep: Ctrl-C, `kill` and a closed terminal."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """Raise `KeyboardInterrupt` on these signals within the block, and remember them.

    An exception raised by a handler is lost in a C++ callback or a finalizer; :meth:`check` raises it again. A second
    signal has its default effect, so that an unresponsive process can still be stopped.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal was received."""
        if self.received:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            self._restore()
