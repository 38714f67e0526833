"""The locks of the images: what a distribution needs, no more, and as ``requirements.lock`` has it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
#: Lock → the distributions of ours that an image installs beside it.
IMAGES = {
    "operator": ("crds", "kubernetes-client", "operator"),
    "gateway": ("crds", "client", "kubernetes-client", "serving[cluster]"),
    "trainer": ("crds", "client", "serving[engine]", "trainer-image"),
    "serving": ("crds", "client", "serving[engine]"),
    "build": (),
}
OURS = tuple(f"multitask-{name}" for name in ("api", "client", "kubernetes", "serving", "trainer", "operator"))
NO_BUSINESS = {
    "operator": ("torch", "transformers", "grpcio", "pyarrow", "hatchling", "moto", "mypy", "pytest"),
    "gateway": ("torch", "transformers", "tokenizers", "pyarrow", "matplotlib", "hatchling", "moto", "mypy", "pytest"),
    "trainer": ("kubernetes", "matplotlib", "nvidia-pytriton", "hatchling", "moto", "mypy", "pytest"),
    "serving": ("kubernetes", "peft", "datasets", "pyarrow", "scipy", "scikit-learn", "hatchling", "moto", "pytest"),
    "build": ("pip", "torch", "numpy"),
}


def text(name: str) -> str:
    return (ROOT / f"requirements{name and '-'}{name}.lock").read_text()


def locked(name: str) -> dict[tuple[str, str], set[str]]:
    """(package, version) → hashes."""
    pins: dict[tuple[str, str], set[str]] = {}
    for line in text(name).splitlines():
        if pinned := re.match(r"([a-z0-9-]+)==(\S+)", line):
            hashes = pins.setdefault((pinned[1], pinned[2]), set())
        elif known := re.match(r"    --hash=(sha256:[0-9a-f]{64})( \\)?$", line):
            hashes.add(known[1])
        else:
            assert re.match(r" *#|$", line), f"neither a pin nor a hash nor a comment: {line}"
    return pins


def needed(distribution: str) -> list[Requirement]:
    """What a distribution depends on, with one extra if it is written so: ``serving[engine]``."""
    folder, _, extra = distribution.removesuffix("]").partition("[")
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return [Requirement(each) for each in listed]


@pytest.mark.parametrize("image", IMAGES)
def test_versions_and_hashes_are_those_of_the_whole_lock(image):
    whole = locked("")
    differing = [pin for pin, hashes in locked(image).items() if not hashes or hashes != whole.get(pin)]
    assert differing == [], "run `make lock`"


@pytest.mark.parametrize("image", IMAGES)
def test_what_the_distributions_depend_on_is_there(image):
    versions = dict(locked(image).keys())
    for requirement in (each for distribution in IMAGES[image] for each in needed(distribution)):
        if requirement.name not in OURS:
            version = versions.get(requirement.name.lower(), "")
            assert version in requirement.specifier, (
                f"{requirement} is locked as {version or 'nothing'}: run `make lock`"
            )


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_does_not_run_is_not_there(image):
    packages = {package for package, _ in locked(image)}
    assert packages.isdisjoint((*NO_BUSINESS[image], *OURS))


def test_what_builds_our_wheels_is_locked():
    backends = {
        Requirement(each).name
        for distribution in ("crds", "client", "kubernetes-client", "serving", "trainer-image", "operator")
        for each in tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["build-system"]["requires"]
    }
    assert backends <= {package for package, _ in locked("build")}


@pytest.mark.parametrize("image", ["", *IMAGES, "triton"])
def test_no_lock_names_an_index(image):
    assert not re.search(r"://|^-i|index-url", text(image), re.MULTILINE)


def test_servers_have_what_reads_storage():
    fetching = {"fsspec", "s3fs"}
    assert fetching <= {package for package, _ in locked("serving")}
    assert fetching <= {each.name for each in needed("trainer-image")}
