"""The commands of `deploy/README.md`: their paths, programs' options and file names exist."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "deploy" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
#: Files that a reader makes by these commands.
MADE = {
    "deploy/compose/.env",
    "deploy/kuberay/base/secrets.env",
    "deploy/kuberay/keys/keys.env",
}
#: Programs whose options are checked where they are installed; the others have no way to ask.
ASKED = {"kubectl", "sbatch", "scancel", "squeue", "tail", "ssh", "docker", "kind", "helm"}


def commands() -> list[list[str]]:
    """The commands of all blocks, each as its words, without variables before it."""
    found = []
    for block in BLOCKS:
        text = "\n".join(
            re.sub(r"(^|\s)#.*", "", line) for line in block.replace("\\\n", " ").replace("2>&1", "").splitlines()
        )
        lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return found


def of(program: str) -> list[list[str]]:
    return [words[1:] for words in commands() if words[0] == program]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_sound_shell(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "cd " not in block  # all blocks run from the project's root


def test_paths_exist_or_are_made() -> None:
    paths = {w for words in commands() for word in words for w in re.split(r"[:=<>]", word) if w.startswith("deploy/")}
    assert len(paths) > 10
    for path in paths:
        assert path in MADE or (ROOT / path).exists() or f"{path}.example" in TEXT, path
    for made in MADE:
        assert (ROOT / f"{made}.example").is_file()
    for path in re.findall(r"`((?:compose|kuberay|cloud|slurm|grafana)/[\w/.-]*|Dockerfile|[\w-]+\.sh)`", TEXT):
        assert f"deploy/{path}" in MADE or (ROOT / "deploy" / path).exists(), path


def test_overlays_and_components_that_are_named_are_there() -> None:
    kuberay = ROOT / "deploy" / "kuberay"
    rows = re.findall(
        r"^\| ((?:`[\w./-]+`(?:, )?)+) \| ", TEXT.partition("## Kubernetes")[2].partition("## AWS")[0], re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {"small", "large-autoscaled", "identity", "../grafana"} <= named
    for name in named:
        assert (kuberay / name / "kustomization.yaml").is_file(), name
    for words in of("kubectl"):
        if "--kustomize" in words:
            assert (ROOT / words[words.index("--kustomize") + 1] / "kustomization.yaml").is_file()


def test_options_of_ray_exist() -> None:
    from ray.scripts.scripts import cli

    for arguments in of("ray"):
        command = cli.commands[arguments[0]]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word in arguments[1:]:
            assert not word.startswith("--") or word.partition("=")[0] in known, (arguments, word)


def test_options_of_pip_name_extras_and_files() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [re.findall(r"\.\[(\w+)\]", code) for code in re.findall(r"`(pip install[^`]*)`", TEXT)]
    assert [name for names in lines for name in names] == ["server"]
    assert "server" in extras


def options_of(program: str, arguments: list[str], folder: Path) -> str:
    """What a program says about its options; kubectl's subcommands have their own."""
    asked = [[program, "--help"]]
    names = [word for word in arguments if not word.startswith("-") and word != "eman"]
    if program in ("kubectl", "docker", "kind", "helm"):
        asked = [[program, *names[: 1 + (names[0] == "compose")], "--help"]]
        asked += [[program, "options"]] if program == "kubectl" else []
    (folder / "slurm.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\n")  # without one Slurm gives no help
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    done = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        for command in asked
    ]
    return "".join(one.stdout + one.stderr for one in done)


@pytest.mark.parametrize("program", sorted(ASKED))
def test_options_of_other_programs_exist(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    found = of(program)
    if program == "docker" and "compose" not in options_of(program, ["help"], tmp_path):
        found = [words for words in found if words[0] != "compose"]  # a plug-in that is not installed
    assert found
    for arguments in found:
        until = next((i for i, word in enumerate(arguments) if word.startswith("deploy/slurm")), len(arguments))
        inner = arguments.index("exec") if program == "docker" and "exec" in arguments else len(arguments)
        options = [word.partition("=")[0] for word in arguments[: min(until, inner)] if word.startswith("--")]
        known = options_of(program, arguments, tmp_path) if options else ""
        for option in options:
            assert re.search(rf"{option}\b", known), (program, option)


def test_the_targets_of_the_dockerfile_are_those_that_are_built() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE))
    targets = {words[words.index("--target") + 1] for words in of("docker") if "--target" in words}
    assert targets <= stages
    assert targets


def test_the_first_table_says_what_was_run_and_what_was_not() -> None:
    head = TEXT.split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in head[0].strip("|").split("|")] == ["target", "run", "checked", "never tried"]
    for path in re.findall(r"`(tests/[\w.]+)`", TEXT):
        assert (ROOT / path).is_file(), path


def test_what_is_not_a_program_of_these_is_a_known_one() -> None:
    known: dict[str, Any] = dict.fromkeys(ASKED | {"eman", "ray", "export", "set", "mkdir", "printf", "pip", "umask"})
    for words in commands():
        name = words[0]
        assert name in known or name in {"while", "do", "done", "for", "echo", ".", "deploy/mlflow.sh", "openssl"}, (
            words
        )
