"""What decides an archive's name, the machine's settings for a build, and the environment of thin pods."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import images
from devcluster.image_build import environment, pip_config
from devcluster.image_build.environment import Environment
from devcluster.image_build.image_definition import ImageDefinition
from multitask_operator.objects.serving.pods import ServerSettings, server_template
from support import object_samples
from support.graph_builders import task
from unit.operator.objects import test_pods

ROOT = Path(__file__).parents[3]
RECIPE = ImageDefinition("Dockerfile", ("lock", "package/src"), "1", "10001:10001")


@pytest.fixture
def checkout(tmp_path):
    for name in ("Dockerfile", "lock", "package/src/a.py", "package/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", ["Dockerfile", "lock", "package/src/a.py", "package/src/new.py"])
def test_another_content_is_another_digest(checkout, name):
    before = RECIPE.digest(checkout)
    (checkout / name).write_text("changed")
    assert RECIPE.digest(checkout) != before


@pytest.mark.parametrize(
    "name", ["package/README.md", "other", "package/src/__pycache__/a.pyc", "package/src/a.egg-info/x"]
)
def test_what_does_not_go_in_does_not_count(checkout, name):
    before = RECIPE.digest(checkout)
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("changed")
    assert RECIPE.digest(checkout) == before


def test_a_copy_has_the_same_digest_and_no_more_files(checkout, tmp_path):
    RECIPE.copy(checkout, tmp_path / "copy")
    assert RECIPE.digest(tmp_path / "copy") == RECIPE.digest(checkout)
    copied = sorted(
        str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()
    )
    assert copied == ["Dockerfile", "lock", "package/src/a.py"]


def test_an_archive_that_is_there_is_taken_and_of_its_image_the_last_two_used_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images.folder().mkdir(parents=True)
    wanted = images.folder() / f"thin-{images.definitions()['thin'].digest(ROOT)}.tar"
    others = ["thin-00000000000a.tar", "thin-00000000000b.tar", "pause-00000000000c.tar"]
    for age, path in enumerate([wanted, *(images.folder() / name for name in others)]):
        path.write_text("image")
        os.utime(path, (age, age))
    assert images.archive("thin") == images.Archive(wanted, "localhost/multitask-thin:1")
    assert images.main(["--list"]) == 0
    listed = [Path(line.split("\t")[0]).name for line in capsys.readouterr().out.splitlines()]
    assert sorted(listed) == sorted([wanted.name, "thin-00000000000b.tar", "pause-00000000000c.tar"])


def test_without_room_no_build_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    definitions = {"thin": replace(images.definitions()["thin"], space=10**9)}
    monkeypatch.setattr(images, "definitions", lambda: definitions)
    assert images.main(["thin"]) == 1
    assert "thin needs 1000000000 GB in" in capsys.readouterr().err


def test_an_unknown_image_is_an_error_that_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        images.main(["proxy"])
    assert (
        "no such image: proxy; there are operator, trainer, triton, gateway, thin, pause, environment"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", images.definitions())
def test_every_input_of_an_image_is_in_the_checkout(name):
    definition = images.definitions()[name]
    for path in (definition.dockerfile, *definition.inputs):
        assert (ROOT / path).exists()


def test_pips_settings_come_from_its_files_in_order_and_from_variables_last(tmp_path):
    (tmp_path / "site").write_text(
        "[global]\nindex-url = one\ntimeout = 5\nquiet = 1\n[install]\ntrusted-host = a\n  b\n"
    )
    (tmp_path / "user").write_text("[global]\nindex-url = two\n")
    files = [tmp_path / "site", tmp_path / "absent", tmp_path / "user"]
    assert pip_config.pip_settings(files, {"PIP_TIMEOUT": "9", "SSL_CERT_FILE": "/ca"}) == {
        "index-url": "two",
        "trusted-host": "a\nb",
        "cert": "/ca",
        "timeout": "9",
    }


def test_a_build_gets_the_settings_and_the_certificates_they_name(tmp_path):
    (tmp_path / "ca").write_text("CERTIFICATES")
    volumes = pip_config.volumes(tmp_path / "machine", {"cert": str(tmp_path / "ca"), "trusted-host": "a\nb"})
    inside = {path: source for source, path in volumes.items()}
    written = configparser.RawConfigParser()
    written.read(inside["/etc/pip.conf"])
    given = dict(written.items("global"))
    assert given["trusted-host"] == "a\nb"
    folder, _, name = given["cert"].rpartition("/")
    assert (inside[folder] / name).read_text() == "CERTIFICATES"


def test_a_pod_of_the_operator_takes_the_environment_and_keeps_its_command():
    given = environment.pod_template(Environment(Path("/cache/packages"), Path("/cache/libraries")))
    pod = test_pods.with_template(given)
    assert test_pods.environment(pod)["PYTHONPATH"] == "/environment/packages:/environment/libraries"
    assert test_pods.trainer(pod)["command"] == test_pods.trainer(test_pods.template())["command"]
    mounted = {each["name"]: each["mountPath"] for each in test_pods.trainer(pod)["volumeMounts"]}
    paths = {each["hostPath"]["path"]: mounted[each["name"]] for each in pod["spec"]["volumes"] if "hostPath" in each}
    assert paths == {"/cache/packages": "/environment/packages", "/cache/libraries": "/environment/libraries"}


def test_a_server_takes_the_environment_with_triton_in_both_of_its_containers():
    folders = Environment(Path("/cache/packages"), Path("/cache/libraries"), Path("/cache/triton"))
    model = object_samples.resource(task("topic"), serving={"podTemplate": environment.server_pod_template(folders)})
    settings = ServerSettings("localhost/multitask-thin:1")
    pod = server_template(object_samples.OWNER, model.spec, "5e71a1ce", 1000, settings)["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        (path,) = [each["value"] for each in container["env"] if each["name"] == "PYTHONPATH"]
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        found = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
        assert [found[mounted[folder]] for folder in path.split(":")] == [
            "/cache/packages",
            "/cache/libraries",
            "/cache/triton",
        ]
    assert [each["name"] for each in pod["containers"]] == ["server"]


def test_where_programs_cannot_be_installed_the_missing_ones_are_named(tmp_path):
    """No apt-get on this PATH."""
    for name in ("id", "sh"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = ROOT / "tools" / "get_node_packages.sh"
    done = subprocess.run(
        [tmp_path / "sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    missing, _, packages = done.stderr.partition("; install them (Debian: apt-get install --no-install-recommends ")
    assert {"containerd", "ctr", "buildah", "mmdebstrap"} <= set(missing.split())
    assert packages.split().count("containerd") == 1
    assert os.linesep in packages
