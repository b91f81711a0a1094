"""A sweep on a cluster that has no workers until Ray's autoscaler, with Ray's own local provider, starts them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

#: Up to two nodes of one processor, which come when asked for. The provider starts them on this machine, and asks for
#: the other fields though it does not use them.
CLUSTER = {
    "cluster_name": "grows",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    quick = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    return {**os.environ, **secret, **quick, "RAY_USAGE_STATS_ENABLED": "0", "EMAN_HOME": str(home)}


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"}
    (tmp_path / "cluster.yaml").write_text(json.dumps({**CLUSTER, "provider": provider}))  # JSON is YAML
    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets lie in it
    log = tmp_path / "head.log"
    with log.open("wb") as out:
        head = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"),
                *(f"--autoscaling-config={tmp_path / 'cluster.yaml'}", f"--temp-dir={folder}"),
            ],
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        started = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(timeout=60)
        for process in started:
            if process.is_running():
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_sweep_that_waits_makes_the_cluster_grow_as_far_as_its_runs_need(
    address: str, environment: dict[str, str]
) -> None:
    words = ["grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke", "--address", address]
    sweep = [sys.executable, "-m", "eman", "sweep", *words]
    refused = subprocess.run(sweep, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2
    assert "the cluster has 0 CPU" in refused.stderr
    assert "--wait SECONDS for one that grows" in refused.stderr
    done = subprocess.run(
        [*sweep, "--wait", "120"], env=environment, check=False, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "2 trained" in done.stderr
    assert "x 2 cores)" in done.stderr  # both came, though one run would have fitted one
