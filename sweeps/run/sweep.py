"""Run a sweep and publish its tables in the store."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from eman.platform import modules
from eman.platform.cluster import cluster
from eman.platform.errors import first_line
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.sweeps.checks import Pairs, check_data, check_files, check_storage, check_workers
from eman.sweeps.plan import Sweep, continued
from eman.sweeps.run.events import Event, Waiting
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.launch import Launch
from eman.sweeps.run.options import Options, Report, wait_for_room
from eman.sweeps.run.publish import begin_sweep, publish_sweep
from eman.sweeps.run.state import SweepState
from eman.sweeps.view.gauges import Gauges
from eman.trainers.spec.run import RunSpec

#: Seconds between a sweep's heartbeats.
_BEAT_SECONDS = 5.0

Listener = Callable[[SweepState, Event], None]

log = logging.getLogger("eman")


def run_sweep(
    sweep: Sweep, store: Store, *, options: Options | None = None, listen: Listener = lambda state, event: None
) -> Report:
    """Run the missing parts of a sweep, then store its tables on the sweep's run.

    No run is written to the store until the data have been checked and the cluster joined. `listen` is called with the
    sweep's state and every event, in this thread.

    Raises:
        UserError: The data, the cluster or the number of workers is unsuitable.
    """
    started, options = time.monotonic(), options or Options()
    modules.sources()  # all can travel
    check_workers(options.workers, sweep.checked, scheduler=sweep.request.scheduler)
    sweep = continued(sweep, store)
    with Interruption() as interruption:
        launch = Launch(SweepState(sweep), store, options, interruption, listen)
        try:
            check_storage(store.workspace)
            launch.emit(Waiting("reading the store"))
            store.deliver()
            store.settle_lost()
            if launch.todo().open or launch.has_points_to_choose:
                _carry_out(launch, started)
        except KeyboardInterrupt:
            launch.report.interrupted = True
    report = launch.report
    report.reused = launch.state.count()["reused"]
    report.seconds = time.monotonic() - started
    return report


def _carry_out(launch: Launch, started: float) -> None:
    """Join the cluster, more than once if needed, and run what is missing. Always end the sweep's run in the store."""
    options, report, parent = launch.options, launch.report, None
    waiting = {key for key, run in launch.state.runs.items() if run.status == "waiting"}
    trainings = [spec for spec in launch.sweep.checked if spec.key in waiting or spec.key not in launch.state.runs]
    evaluations = [(spec, run) for spec, run in launch.sweep.pairs if spec.key in waiting]
    check_files(trainings, launch.store.workspace, evaluations, present=True)
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Meanwhile Ray starts. A cluster elsewhere may refuse; then the store is opened afterwards.
            prepared = pool.submit(_prepare, trainings, launch.store, evaluations, open_store=options.address is None)
            complete = False
            while not complete:
                address = options.address
                launch.emit(Waiting(f"joining Ray at {address}" if address else "starting Ray"))
                with cluster(address) as available:
                    launch.emit(Waiting("loading the data"))
                    prepared.result()
                    resources = wait_for_room(options, available, len(trainings) or len(evaluations))
                    report.cores = resources.cpus
                    parent = parent or begin_sweep(launch.sweep, launch.store, launch.state.launched, options)
                    with _heartbeat(parent, Gauges(launch.state)):
                        complete = launch.carry_out(parent.run_id, resources)
    except KeyboardInterrupt:
        report.interrupted = True
        if parent is not None:
            launch.release()
            parent.interrupt()  # before the tables are written, in case this process is killed soon
    except Exception as error:
        if parent is not None:
            with contextlib.suppress(Exception):  # the store may be what failed
                parent.fail(first_line(error))
        raise
    if parent is not None:
        report.seconds = time.monotonic() - started
        launch.emit(Waiting("writing tables to the store"))
        launch.store.deliver()
        publish_sweep(launch.sweep, launch.store, parent, report)
        launch.emit(Waiting(""))


def _prepare(trainings: Iterable[RunSpec], store: Store, evaluations: Pairs, *, open_store: bool) -> None:
    """Check the data; then, with `open_store`, open the store, which creates its tables if it is new.

    Raises:
        UserError: The data is unsuitable.
    """
    check_data(trainings, store.workspace, evaluations)
    if open_store:
        _ = store.client


@contextlib.contextmanager
def _heartbeat(parent: RunLog, gauges: Gauges) -> Iterator[None]:
    """Send the sweep's heartbeats and metrics from a thread, while Ray Tune blocks the main thread."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            try:
                gauges.update()
                parent.beat()
            except Exception as error:  # calls that need the store report and retry
                log.warning("the sweep's heartbeat failed: %s", error)
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="eman-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
