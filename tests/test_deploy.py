"""The files of `deploy/` against the schemas of those who read them, and what they start, started."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from eman import __version__
from eman.cli import main
from eman.platform.cluster import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
SCHEMAS = os.environ.get("EMAN_SCHEMAS", "")
KUBERNETES = "1.34"
CLOUDS = sorted((DEPLOY / "cloud").glob("*.yaml"))
OVERLAYS = ("small", "large", "large-autoscaled", "small-job", "large-job")
#: Components that `large` may add.
COMPONENTS = ("../registry", "../queue", "../../grafana")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[1:40])

Document = dict[str, Any]


def run(*command: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **options)


def documents(*paths: Path) -> list[Document]:
    return [d for path in paths for d in yaml.safe_load_all(path.read_text()) if d]


def manifests() -> list[Path]:
    kuberay = sorted(p for p in (DEPLOY / "kuberay").rglob("*.yaml") if p.name != "kustomization.yaml")
    return [*kuberay, DEPLOY / "grafana" / "monitoring.yaml"]


def walk(value: Any) -> Iterator[Document]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from walk(item)


def named(found: list[Document], kind: str, name: str) -> Document:
    (one,) = [d for d in found if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return one


def readme_block(start: str) -> str:
    """The shell block of the README that begins with this line."""
    text = (DEPLOY / "README.md").read_text()
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if b.startswith(start)]
    return str(block)


def test_the_readme_shows_what_eman_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DEPLOY / "README.md").read_text()
    ((command, shown),) = re.findall(r"^\$ eman (plan .*)\n((?:.+\n)+?)```", text, re.MULTILINE)
    assert main(command.split()) == 0
    assert capsys.readouterr().out == shown


# Kubernetes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kuberay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with secrets, made by the README's command."""
    copy = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets.env", ".env"))
    done = run("bash", "-euc", readme_block("(umask 077; for file in deploy/kuberay"), cwd=copy.parent)
    assert done.returncode == 0, done.stderr
    for made in ("base/secrets.env", "keys/keys.env"):
        assert (copy / "kuberay" / made).stat().st_mode & 0o777 == 0o600
    return copy / "kuberay"


@pytest.fixture(scope="module")
def built(kuberay: Path) -> Callable[[str], list[Document]]:
    """What an overlay builds, by whichever Kustomize there is."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl") and "Kustomize Version: v5" in run("kubectl", "version", "--client").stdout:
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize nor a kubectl that holds Kustomize 5 is installed")

    def build(overlay: str) -> list[Document]:
        done = run(*command, str(kuberay / overlay))
        assert done.returncode == 0, done.stderr
        return [d for d in yaml.safe_load_all(done.stdout) if d]

    return build


def closed(schema: Any) -> Any:
    """KubeRay's schema, refusing fields that it does not name: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def validate_ray(found: list[Document]) -> None:
    if not SCHEMAS:
        pytest.skip("set EMAN_SCHEMAS to a folder with KubeRay's schemas (deploy/README.md)")
    for document in found:
        schema = json.loads((Path(SCHEMAS) / f"kuberay-1.7.0-{document['kind'].lower()}-v1.json").read_text())
        jsonschema.Draft202012Validator(closed(schema)).validate(document)


def is_ray(document: Document) -> bool:
    return bool(document["apiVersion"] == "ray.io/v1")


def test_manifests_are_what_kubernetes_takes() -> None:
    for document in documents(*manifests()):
        if not is_ray(document):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_ray_manifests_are_what_kuberay_takes() -> None:
    validate_ray([d for d in documents(*manifests()) if is_ray(d)])


@pytest.fixture(scope="module")
def with_components(kuberay: Path, built: Callable[[str], list[Document]]) -> list[Document]:
    """What `large-job` builds with all components that may be added, and a role in the place of keys."""
    files = [kuberay / overlay / "kustomization.yaml" for overlay in ("large", "large-job")]
    before = [file.read_text() for file in files]
    for component in COMPONENTS:
        assert any(f"  # - {component}\n" in text for text in before)
    assert "  - ../keys  # or ../identity\n" in before[0]
    try:
        for file, text in zip(files, before, strict=True):
            chosen = text.replace("../keys  # or ../identity", "../identity")
            file.write_text(re.sub(r"^  # - ", "  - ", chosen, flags=re.MULTILINE))
        return built("large-job")
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)


def test_components_build_what_kubernetes_and_kuberay_take(with_components: list[Document]) -> None:
    for document in with_components:
        if not is_ray(document):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    check_pods(with_components)
    account = named(with_components, "ServiceAccount", "eman")
    assert account["imagePullSecrets"] == [{"name": "registry"}]
    assert set(account["metadata"]["annotations"]) == {"eks.amazonaws.com/role-arn", "iam.gke.io/gcp-service-account"}
    assert "storage" not in {d["metadata"]["name"] for d in with_components if d["kind"] == "Secret"}
    ours = [pod for pod in pods(with_components) if "/eman:" in pod["containers"][0]["image"]]
    assert ours
    assert all(pod["serviceAccountName"] == "eman" for pod in ours)
    job = named(with_components, "RayJob", "sweep")
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "QUEUE"}
    validate_ray([job])


def test_prometheus_and_grafana_read_their_files(with_components: list[Document], tmp_path: Path) -> None:
    prometheus = named(with_components, "ConfigMap", "prometheus")["data"]["prometheus.yml"]
    grafana = named(with_components, "ConfigMap", "grafana")["data"]
    [scrape] = yaml.safe_load(prometheus)["scrape_configs"]
    [discovery] = scrape["dns_sd_configs"]
    [port] = named(with_components, "Service", discovery["names"][0])["spec"]["ports"]
    assert port["port"] == discovery["port"]
    spec = named(with_components, "RayJob", "sweep")["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert {group["rayStartParams"]["metrics-export-port"] for group in groups} == {str(discovery["port"])}
    mounts = {m["subPath"]: m["mountPath"] for d in with_components for m in walk(d) if "subPath" in m}
    assert set(mounts) == set(grafana)
    [provider] = yaml.safe_load(grafana["dashboards.yml"])["providers"]
    assert mounts["eman.json"].startswith(provider["options"]["path"])
    [source] = yaml.safe_load(grafana["datasources.yml"])["datasources"]
    assert named(with_components, "Service", source["url"].split("/")[2].split(":")[0])
    if shutil.which("promtool"):
        (tmp_path / "prometheus.yml").write_text(prometheus)
        done = run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_build_what_kubernetes_takes(overlay: str, built: Callable[[str], list[Document]]) -> None:
    for document in built(overlay):
        if not is_ray(document):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_build_what_kuberay_takes(overlay: str, built: Callable[[str], list[Document]]) -> None:
    ray = [d for d in built(overlay) if is_ray(d)]
    assert [d["kind"] for d in ray] == ["RayJob" if overlay.endswith("-job") else "RayCluster"]
    validate_ray(ray)


def test_a_misspelt_field_is_refused() -> None:
    ray = named(documents(DEPLOY / "kuberay/base/ray-cluster.yaml"), "RayCluster", "eman")
    ray["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resuorces"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resuorces"):
        validate_ray([ray])


def test_every_file_that_a_kustomization_names_is_there() -> None:
    for path in (DEPLOY / "kuberay").rglob("kustomization.yaml"):
        (one,) = documents(path)
        for name in (*one.get("resources", ()), *one.get("components", ())):
            assert (path.parent / name).exists(), f"{path}: {name}"


def pods(found: list[Document]) -> Iterator[Document]:
    yield from (m for d in found for m in walk(d) if isinstance(m.get("containers"), list))


def head_of(document: Document) -> Document:
    return dict(document["spec"]["headGroupSpec"]["template"]["spec"])


def check_pods(found: list[Document]) -> None:
    """Every container is confined and says what it needs."""
    for pod in pods(found):
        # But for the head that holds the autoscaler.
        autoscaled = any("autoscalerOptions" in d.get("spec", {}) and pod == head_of(d) for d in found)
        assert pod["automountServiceAccountToken"] is autoscaled
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {v["name"] for v in pod.get("volumes", ())} | {"data"}  # `data`: of a claim's template
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind])
            assert {m["name"] for m in container["volumeMounts"]} <= volumes
            assert "/tmp" in {m["mountPath"] for m in container["volumeMounts"]}


def test_pods_are_confined() -> None:
    check_pods(documents(*manifests()))


def test_servers_have_probes() -> None:
    for document in documents(*manifests()):
        if document["kind"] in ("Deployment", "StatefulSet"):
            for pod in pods([document]):
                for container in pod["containers"]:
                    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_whole(overlay: str, built: Callable[[str], list[Document]]) -> None:
    found = built(overlay)
    check_pods(found)
    secret, config = named(found, "Secret", "eman")["data"], named(found, "ConfigMap", "eman")["data"]
    keys = named(found, "Secret", "storage")["data"]
    assert set(keys) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert config["EMAN_HOME"].startswith("s3://")  # no volume is shared
    assert not [d for d in found if d["kind"] == "PersistentVolumeClaim"]
    assert ENVIRONMENT.items() <= config.items()
    for mapping in (m for d in found for m in walk(d)):
        for kind, there in (("secretKeyRef", {"eman": secret, "storage": keys}), ("configMapKeyRef", {"eman": config})):
            if kind in mapping and not (kind == "configMapKeyRef" and mapping[kind].get("optional")):
                assert mapping[kind]["key"] in there[mapping[kind]["name"]]
        image = mapping.get("image")
        if isinstance(image, str):
            assert re.search(r":[\w.-]*\d", image), f"{image} is not pinned"
            if "eman:" in image:
                assert f"eman:{__version__}-" in image
    labels = [
        template["metadata"]["labels"]
        for m in (m for d in found for m in walk(d))
        for key, template in m.items()
        if key in ("template", "submitterPodTemplate") and "labels" in template.get("metadata", {})
    ]
    for policy in (d for d in found if d["kind"] == "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= label.items() for label in labels), policy["metadata"]["name"]
    ray = next(d for d in found if is_ray(d))
    spec = ray["spec"].get("rayClusterSpec", ray["spec"])
    assert spec["rayVersion"] == PINS["ray"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "eman"}
    assert "auth_token" in secret
    groups = {g["groupName"]: g["template"]["spec"]["containers"][0]["resources"] for g in spec["workerGroupSpecs"]}
    assert ("gpu" in groups) == overlay.startswith("large")
    assert all(name == "cpu" or r["limits"]["nvidia.com/gpu"] == "1" for name, r in groups.items())
    autoscaled = overlay.endswith("autoscaled")
    assert bool(spec.get("enableInTreeAutoscaling")) == autoscaled
    assert all((group["minReplicas"] == 0) == autoscaled for group in spec["workerGroupSpecs"])
    assert all(group["maxReplicas"] > 0 for group in spec["workerGroupSpecs"])
    if "submitterPodTemplate" in ray["spec"]:
        words = ray["spec"]["entrypoint"].split()
        assert words[:2] == ["eman", "sweep"]
        assert main([*words[1 : words.index("--address")], "--dry-run"]) == 0
        head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
        assert ray["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == head["image"]


def test_ray_is_the_pinned_one() -> None:
    ray = named(documents(DEPLOY / "kuberay/base/ray-cluster.yaml"), "RayCluster", "eman")
    assert ray["spec"]["rayVersion"] == PINS["ray"]


def test_no_server_outside_a_container_listens_on_all_interfaces() -> None:
    """MLflow's server has no login, and Ray obeys whoever reaches it with the token."""
    text = [
        path for folder in ("deploy", "docs") for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".sh")
    ]
    for path in [*text, *CLOUDS, ROOT / "README.md"]:
        assert "0.0.0.0" not in path.read_text(), path
        for line in path.read_text().splitlines():
            bound = "--node-ip-address" in line or "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0" in line
            assert "ray start --head" not in line or path.parent.name == "cloud" or bound, path


def test_no_secret_stands_in_a_file() -> None:
    assert not [d for d in documents(*manifests()) if d["kind"] == "Secret"]
    examples = [DEPLOY / "kuberay" / name for name in ("base/secrets.env.example", "keys/keys.env.example")]
    for example in (*examples, DEPLOY / "compose/.env.example"):
        assert re.fullmatch(r"(\w+=\n)+", example.read_text())
        real = example.with_name(example.name.removesuffix(".example"))
        assert run("git", "check-ignore", "--quiet", str(real), cwd=ROOT).returncode == 0
    secret = re.compile(r"password|secret|token|access_key", re.IGNORECASE)
    for mapping in (m for d in documents(*manifests()) for m in walk(d) if secret.search(str(m.get("name", "")))):
        assert "secretKeyRef" in mapping.get("valueFrom", {}) or "value" not in mapping


# Clouds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_cloud_files_are_what_ray_takes(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (given,) = documents(path)
    filled = prepare_config(given)
    validate_config(filled)
    assert filled["provider"]["type"] == path.stem
    groups = given["available_node_types"]
    assert sum(g.get("min_workers", 0) for g in groups.values()) == given["max_workers"]
    nodes = {name: json.dumps(group["node_config"]).lower() for name, group in groups.items()}
    assert {name for name, node in nodes.items() if "spot" in node} == {"gpu_spot"}
    assert {name for name, group in groups.items() if group["resources"].get("GPU")} == {"gpu_spot", "gpu_on_demand"}
    assert groups["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_cloud_files_take_along_what_the_package_is_made_of(path: Path) -> None:
    mounts = documents(path)[0]["file_mounts"]
    assert mounts["/home/ubuntu/mlflow.sh"] == "deploy/mlflow.sh"
    theirs = {here for there, here in mounts.items() if there.startswith("/home/ubuntu/eman/")}
    assert theirs == copied()
    assert all(there.endswith(f"/{here}") for there, here in mounts.items() if here in theirs)


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_commands_of_cloud_files_are_sound_shell(path: Path) -> None:
    (given,) = documents(path)
    lines = [line for key, value in given.items() if key.endswith("_commands") for line in value]
    assert len(lines) > 5
    script = "#!/bin/bash\nRAY_HEAD_IP=10.0.0.1\n" + "\n".join(lines)
    done = run(str(BIN / "shellcheck"), "--severity=warning", "--exclude=SC2155,SC1090", "-", input=script)
    assert done.returncode == 0, done.stdout


# Containers -----------------------------------------------------------------------------------------------------------


def copied() -> set[str]:
    """What the Dockerfile copies of the project."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    return {name for line in lines for name in (line.split()[:-1])}


def test_the_dockerfile_passes_hadolint() -> None:
    done = run(str(BIN / "hadolint"), str(DEPLOY / "Dockerfile"))
    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_and_without_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-", text, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+) AS (\w+)", text, re.MULTILINE)
    assert stages == [("python:${PYTHON}", "build"), ("python:${PYTHON}", "cpu"), ("cpu", "cuda")]
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000:1000"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied()


@pytest.mark.slow
def test_what_the_image_copies_makes_a_whole_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(tmp_path), str(source))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    found = {p.relative_to(tmp_path / "unpacked") for p in (tmp_path / "unpacked" / "eman").rglob("*.*")}
    here = {
        p.relative_to(ROOT)
        for folder in ("", "commands", "platform", "trainers", "evaluation", "sweeps")
        for p in (ROOT / "eman" / folder).iterdir()
        if p.suffix in (".py", ".csv") and p.is_file()
    }
    assert here <= found


def compose() -> Document:
    return documents(DEPLOY / "compose/compose.yaml")[0]


def test_compose_files_are_what_the_specification_says() -> None:
    files = sorted(str(p) for p in (DEPLOY / "compose").glob("*.yaml"))
    done = run(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files)
    assert done.returncode == 0, done.stdout


def test_compose_is_confined_and_waits_for_what_it_needs() -> None:
    services = compose()["services"]
    secrets = re.findall(r"^(\w+)=$", (DEPLOY / "compose/.env.example").read_text(), re.MULTILINE)
    text = (DEPLOY / "compose/compose.yaml").read_text()
    for name in secrets:
        assert f"${{{name}:?" in text, f"{name} may be left out without a word"
    assert set(re.findall(r"\$\{(\w+)", text)) == {*secrets, "VARIANT", "TORCH_INDEX"}
    for name, service in services.items():
        assert re.search(r":[\w.-]*\d", service["image"]), name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "healthcheck" in service or service["restart"] == "on-failure", name
        for other, how in service.get("depends_on", {}).items():
            ends = services[other]["restart"] == "on-failure"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")
        for file in service.get("env_file", ()):
            assert (DEPLOY / "compose" / file).is_file()
    assert f"eman:{__version__}-" in services["head"]["image"]


# What they start ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, host: str | None = None) -> int:
    """The status that a server answers with; 0 while it does not."""
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)
    except OSError:
        return 0


def until(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while get(url) != 200:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@contextmanager
def started(
    command: list[str], environment: dict[str, str], folder: Path, name: str
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A process, and its log, until the block ends."""
    log = folder / f"{name}.log"
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **path, **environment}, cwd=folder, stdout=out, stderr=out, process_group=0
        )
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def mlflow_commands() -> dict[str, list[str]]:
    pod = named(documents(DEPLOY / "kuberay/base/mlflow.yaml"), "Deployment", "mlflow")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return {
        "kuberay": [*container["command"], *container["args"]],
        "compose": compose()["services"]["mlflow"]["command"],
    }


@pytest.mark.slow
def test_the_mlflow_server_starts_and_keeps_artifacts_in_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    import boto3
    from mlflow import MlflowClient
    from moto.server import ThreadedMotoServer

    commands = mlflow_commands()
    same = [[a for a in c if not a.startswith("--allowed-hosts")] for c in commands.values()]
    assert same[0] == same[1]  # one test does for both, but for the names
    database = compose()["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert database.partition(":")[0] == postgres.partition(":")[0]
    assert f'"{database}"' in (DEPLOY / "kuberay" / "base" / "mlflow.yaml").read_text()
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, number = store.get_host_and_port()
    s3 = {
        "AWS_ENDPOINT_URL": f"http://{host}:{number}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="mlflow")
    port = free_port()
    replaced = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}", "--workers=2": "--workers=1"}
    given = commands["kuberay"]
    assert set(replaced) <= set(given)
    command = [replaced.get(argument, argument) for argument in given]
    command = [a.replace("127.0.0.1:5000", f"127.0.0.1:{port}") if "allowed" in a else a for a in command]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": postgres,  # on another host, by the same driver
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    url = f"http://127.0.0.1:{port}"
    try:
        with started(command, environment, tmp_path, "mlflow") as (process, log):
            until(f"{url}/health", process, log)
            assert get(f"{url}/health", host="10.1.2.3:5000") == 200  # a probe names the pod's address
            experiments = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
            for setting in commands.values():
                (hosts,) = [a.partition("=")[2].split(",") for a in setting if a.startswith("--allowed-hosts")]
                assert {"mlflow:5000", "localhost:5000", "127.0.0.1:5000"} <= set(hosts)
            for name, status in (("mlflow:5000", 200), ("localhost:5000", 200), ("evil.example.com", 403)):
                assert get(experiments, host=name) == status
            client = MlflowClient(tracking_uri=url)
            written = client.create_run(client.create_experiment("eman"))
            client.log_text(written.info.run_id, "table", "table1.md")
            assert [f.path for f in client.list_artifacts(written.info.run_id)] == ["table1.md"]
        objects = boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]
        assert [o["Key"].rsplit("/", 1)[-1] for o in objects] == ["table1.md"]
    finally:
        store.stop()


@pytest.mark.slow
def test_ray_starts_as_compose_says_and_answers_probes(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = compose()["services"]
    folder = tmp_path_factory.mktemp("r")
    gcs, dashboard, client = (free_port() for _ in range(3))
    agents = {"head": free_port(), "worker": free_port()}
    replaced = {
        "--port=6379": f"--port={gcs}",
        "--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1",
        "--address=head:6379": f"--address=127.0.0.1:{gcs}",
    }
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(16).hex(), "RAY_USAGE_STATS_ENABLED": "0"}
    used = set()

    def command(name: str) -> list[str]:
        given = services[name]["command"]
        used.update(set(replaced) & set(given))
        more = [f"--dashboard-agent-listen-port={agents[name]}", "--node-ip-address=127.0.0.1"]
        if name == "head":
            more += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
        else:
            more += ["--num-cpus=1"]
        return [replaced.get(a, a) for a in given] + more

    with started(command("head"), environment, folder, "head") as (head, head_log):
        until(f"http://127.0.0.1:{dashboard}/api/gcs_healthz", head, head_log)  # compose's probe
        assert get(f"http://127.0.0.1:{dashboard}/api/jobs/") == 401  # without a token, nothing else
        with started(command("worker"), environment, folder, "worker") as (worker, worker_log):
            for path in ("api/local_raylet_healthz", "api/healthz"):  # compose's probe, and KubeRay's
                until(f"http://127.0.0.1:{agents['worker']}/{path}", worker, worker_log)
    assert used == set(replaced)


# Slurm ----------------------------------------------------------------------------------------------------------------

SLURM = DEPLOY / "slurm" / "sweep.sh"


@pytest.fixture
def allocation() -> dict[str, str]:
    """The environment of a batch script on two nodes."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "1",
    }


def test_scripts_pass_shellcheck() -> None:
    done = run(str(BIN / "shellcheck"), str(SLURM), str(DEPLOY / "mlflow.sh"))
    assert done.returncode == 0, done.stdout


def test_the_batch_script_wants_a_server_that_all_nodes_reach(allocation: dict[str, str]) -> None:
    done = run(str(SLURM), "table1", env=allocation)
    assert done.returncode == 2
    assert done.stderr == (
        "several nodes need an MLflow server that all can reach: set MLFLOW_TRACKING_URI (deploy/README.md)\n"
    )
