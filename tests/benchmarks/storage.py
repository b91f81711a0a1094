"""What a bucket costs: the same sweep with its work folder on this machine's disk, and in S3 served by this machine.

    python tests/benchmarks/storage.py --times 2 -- grid --method moco --scheme bn,eman --profile quick

Both use a SQLite store of their own, and checkpoints are written as often as given by EMAN_CHECKPOINT_SECONDS. Sweeps
alternate. The server is moto's, a process of its own that takes CPU time from the sweep.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = """
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
address = "http://{}:{}".format(*server.get_host_and_port())
boto3.client("s3", endpoint_url=address).create_bucket(Bucket="eman")
print(address, flush=True)
sys.stdin.read()
"""


def seconds(sweep: list[str], environment: dict[str, str]) -> float:
    """Run a sweep from nothing and return how long it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "eman", "sweep", *sweep]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("sweep", nargs="+", help="arguments of `eman sweep`")
    options = parser.parse_args()
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys}
    taken: dict[str, list[float]] = {"folder": [], "S3": []}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        environment["AWS_ENDPOINT_URL"] = server.stdout.readline().strip()
        for number in range(options.times):
            for kind, values in taken.items():
                with tempfile.TemporaryDirectory() as folder:
                    home = f"s3://eman/{number}" if kind == "S3" else str(Path(folder) / "home")
                    places = {"EMAN_HOME": home, "EMAN_CACHE": str(Path(folder) / "cache")}
                    places["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
                    values.append(seconds(options.sweep, {**environment, **places}))
                    print(f"{kind:8}{values[-1]:8.1f} s", flush=True)
        server.stdin.close()
    best = {kind: min(values) for kind, values in taken.items()}
    lost = best["S3"] / best["folder"] - 1
    print(f"shortest: folder {best['folder']:.1f} s, S3 {best['S3']:.1f} s, {100 * lost:+.1f} %")
    means = {kind: statistics.mean(values) for kind, values in taken.items()}
    print(f"mean:     folder {means['folder']:.1f} s, S3 {means['S3']:.1f} s")


if __name__ == "__main__":
    main()
