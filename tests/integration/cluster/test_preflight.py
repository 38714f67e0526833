"""A host that cannot run a cluster is refused before anything is built, and a cluster leaves no file on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from devcluster import namespaces
from e2e.in_cluster import preflight, run

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces")
NETWORKS = Path("/run/netns")


def cgroups(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


def test_a_host_with_cgroup_v2_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (problem,) = [each for each in preflight.host_problems(tmp_path) if "cgroup" in each]
    assert problem.startswith(f"{tmp_path} is cgroup v2")


def test_controllers_that_are_not_mounted_are_named(tmp_path: Path) -> None:
    (problem,) = [each for each in preflight.host_problems(cgroups(tmp_path, "cpu", "memory")) if "cgroup" in each]
    assert problem.startswith("the cgroup v1 controllers cpuset, pids are not mounted")


def test_a_controller_without_room_for_groups_is_named(tmp_path: Path) -> None:
    """A symbolic link that leads nowhere stands for what cannot be written."""
    groups = cgroups(tmp_path, "cpu", "cpuset", "memory", "pids")
    (groups / "pids" / f"mtm-preflight-{os.getpid()}").touch()
    (problem,) = [each for each in preflight.host_problems(groups) if "control group" in each]
    assert problem.startswith(f"no control group can be made in {groups / 'pids'}: File exists")


@pytest.mark.parametrize(("gib", "is_named"), [(0.0, False), (1e9, True)])
def test_a_full_disk_is_named_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, is_named: bool
) -> None:
    monkeypatch.setattr(preflight, "WORK_GIB", gib)
    named = [each for each in preflight.host_problems(work=tmp_path / "not" / "yet") if str(tmp_path) in each]
    assert bool(named) is is_named
    assert all("GiB free, and 1000000000.0 are needed; make room" in each for each in named)


def test_missing_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MEMORY_GIB", 1_000_000)
    assert [each for each in preflight.host_problems() if "GiB of memory are free, and 1000000 are needed" in each]


@ROOT
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ({"do that": ("true", "help")}, []),
        ({"do this": ("echo no such thing >&2; echo more >&2; exit 3", "help")}, ["no such thing"]),
        ({"say anything": ("exit 3", "help")}, ["status 3"]),
    ],
)
def test_what_the_kernel_does_not_do_has_one_line(kernel: Mapping[str, tuple[str, str]], expected: list[str]) -> None:
    (what,) = kernel
    assert preflight.kernel_problems(kernel) == [f"the kernel does not {what}: {each}; help" for each in expected]


def test_nothing_is_built_on_a_host_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unexpected(**_: object) -> dict[str, object]:
        raise AssertionError("something is built")

    monkeypatch.setattr(run.preflight, "host_problems", lambda: ["no root", "no disk"])
    monkeypatch.setattr(run.images, "get_programs", unexpected)
    monkeypatch.setattr(run, "build", unexpected)
    assert run.main(["--reduced"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["this host cannot run the cluster: no root", "this host cannot run the cluster: no disk"]


def entries() -> set[str]:
    return {path.name for path in NETWORKS.iterdir()} if NETWORKS.exists() else set()


MAKE = f"ip netns add cni-probe-{os.getpid()} && ls {NETWORKS}"


@ROOT
@pytest.mark.parametrize("is_killed", [False, True])
def test_networks_of_pods_leave_no_file_on_the_host(is_killed: bool) -> None:
    before = entries()
    argv = namespaces.command(["sh", "-c", f"{MAKE}; {'sleep 600' if is_killed else 'true'}"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"cni-probe-{os.getpid()}"
        if is_killed:
            process.kill()
        process.wait(60)
    assert entries() == before
