"""What the Dockerfiles promise: who runs, what is hashed, and that a build gets what it copies and nothing else."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from devcluster import images
from multitask_api.cluster import command
from multitask_api.serving_io.names import FETCH_COMMAND, GATEWAY_COMMAND, SERVER_COMMAND
from multitask_operator.objects.pods import USER
from multitask_serving.triton.installation import IMAGE

ROOT = Path(__file__).parents[3]
NAMES = ("operator", "trainer", "triton", "gateway")


def instructions(name: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest) of each, in order."""
    text = (ROOT / images.definitions()[name].dockerfile).read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(first, rest.strip()) for first, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def final(name: str) -> list[tuple[str, str]]:
    """Those of the stage that becomes the image."""
    every = instructions(name)
    (*_, last) = [index for index, (first, _) in enumerate(every) if first == "FROM"]
    return every[last:]


def words(name: str, instruction: str) -> list[list[str]]:
    return [shlex.split(rest) for first, rest in instructions(name) if first == instruction]


def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_the_base_that_the_builder_chooses(name):
    assert instructions(name)[0] == ("ARG", "BASE_IMAGE=python:3.11-slim-bookworm")
    assert [stage[0] for stage in words(name, "FROM")] == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_the_user_of_the_pods(name):
    users = [rest for first, rest in final(name) if first == "USER"]
    assert users == [f"{USER}:{USER}"] == [images.definitions()[name].user]


@pytest.mark.parametrize("name", NAMES)
def test_the_image_has_what_the_first_stage_made_and_runs_nothing_to_make_more(name):
    assert {first for first, _ in final(name)} <= {
        "FROM",
        "LABEL",
        "COPY",
        "ENV",
        "USER",
        "WORKDIR",
        "ENTRYPOINT",
        "CMD",
    }
    copied = [rest for first, rest in final(name) if first == "COPY"]
    assert copied == ["--from=build /opt/multitask /opt/multitask"]
    assert images.definitions()[name].folder == "opt/multitask"


@pytest.mark.parametrize("name", NAMES)
def test_pip_takes_hashed_files_or_none(name):
    calls = [
        call for first, rest in instructions(name) if first == "RUN" for call in rest.split("&&") if "/pip" in call
    ]
    assert len(calls) == 5
    for call in map(shlex.split, calls):
        assert ("--require-hashes" in call) != ("--no-index" in call)
        assert "--no-cache-dir" in call
        assert ("--no-build-isolation" in call) == ("wheel" in call), "else it takes build tools from the index"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_machine_or_an_account_is_in_it(name):
    text = (ROOT / images.definitions()[name].dockerfile).read_text()
    assert not re.search(r"://|token|password|secret|index-url|trusted-host|netrc", text, re.IGNORECASE)
    assert [rest for first, rest in instructions(name) if first == "ARG"] == ["BASE_IMAGE=python:3.11-slim-bookworm"]


@pytest.mark.parametrize("name", NAMES)
def test_its_labels_are_those_of_this_version(name):
    (label,) = words(name, "LABEL")
    labels = dict(each.split("=", 1) for each in label)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((ROOT / "helm/multitask-operator/Chart.yaml").read_text())
    description = labels.pop("org.opencontainers.image.description")
    assert description.endswith(".")
    assert labels == {
        "org.opencontainers.image.title": f"multitask-{name}",
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    assert images.definitions()[name].version == project["version"] == chart["appVersion"]


@pytest.mark.parametrize("name", NAMES)
def test_a_build_gets_every_file_that_it_copies(name):
    sources = [source for copy in words(name, "COPY") if not copy[0].startswith("--from") for source in copy[:-1]]
    assert sources
    assert {f"!{source}" for source in sources} <= set(ignored())
    inputs = images.definitions()[name].inputs
    for source in sources:
        assert (ROOT / source).exists()
        assert any(each == source or each.startswith(f"{source}/") for each in inputs), f"no digest covers {source}"


def test_a_build_gets_nothing_else_of_the_checkout():
    lines = ignored()
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {source for name in NAMES for copy in words(name, "COPY") for source in copy[:-1] if source[0] != "-"}
    assert let_in == copied - {"/opt/multitask"}


def test_the_operator_starts_by_its_own_script_and_by_the_charts_command():
    (entry,) = [json.loads(rest) for first, rest in final("operator") if first == "ENTRYPOINT"]
    scripts = tomllib.loads((ROOT / "operator/pyproject.toml").read_text())["project"]["scripts"]
    assert entry == ["mtm-operator"]
    assert entry[0] in scripts
    assert f"command: [{entry[0]}]" in (ROOT / "helm/multitask-operator/templates/deployment.yaml").read_text()


def test_the_trainer_has_the_program_that_the_operator_runs():
    assert "ENTRYPOINT" not in dict(final("trainer"))
    (default,) = [json.loads(rest) for first, rest in final("trainer") if first == "CMD"]
    assert default[: len(command("unit"))] == command("unit")


@pytest.mark.parametrize(("name", "program"), [("triton", SERVER_COMMAND), ("gateway", GATEWAY_COMMAND)])
def test_servers_and_gateways_have_the_program_that_is_run(name, program):
    assert "ENTRYPOINT" not in dict(final(name))
    assert [json.loads(rest) for first, rest in final(name) if first == "CMD"] == [list(program)]


def test_servers_can_fetch_a_bundle_without_the_libraries_of_training():
    (ours,) = [rest for first, rest in instructions("triton") if first == "RUN" and "./crds" in rest]
    assert "./trainer-image" in ours
    assert "--no-deps" in ours
    assert (ROOT / "trainer-image/src" / f"{FETCH_COMMAND[-1].replace('.', '/')}.py").exists()


def test_triton_of_the_base_is_taken_where_it_has_one():
    (run,) = [rest for first, rest in instructions("triton") if first == "RUN" and "requirements-serving.lock" in rest]
    assert f"[ -x {IMAGE}/bin/tritonserver ] ||" in run
    assert "requirements-triton.lock" in run
