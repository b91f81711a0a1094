"""Turn exceptions into the reasons that records and table cells show."""

import contextlib
import errno
import traceback
from collections.abc import Callable, Iterator

from eman.platform.errors import RunFailed, UserError, first_line
from eman.platform.store.writer import RunLog
from eman.sweeps.run.events import Failed, Outcome


def reason_of(error: Exception) -> str:
    """Return why a run failed, in one line."""
    if isinstance(error, RunFailed | UserError):
        return str(error)
    # PyTorch's writer hides the system's error behind one of its own.
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return f"the disk is full: {first_line(error)}; make room and launch the sweep again."
    return f"{type(error).__name__}: {first_line(error)}"


def attempt(key: str, work: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of a run; an exception becomes `Failed`."""
    try:
        return work()
    except Exception as error:
        return Failed(key, reason_of(error))


@contextlib.contextmanager
def failure_recorded(log: RunLog | None) -> Iterator[None]:
    """Record an exception in the store as the run's failure, with a traceback if it was unexpected."""
    try:
        yield
    except Exception as error:
        if log is not None:
            if not isinstance(error, RunFailed | UserError):
                with contextlib.suppress(Exception):  # the store may be what fails
                    log.store.client.log_text(log.run_id, traceback.format_exc(), "error.txt")
            log.fail(reason_of(error), final=isinstance(error, RunFailed))
        raise
