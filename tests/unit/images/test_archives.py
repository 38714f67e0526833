"""The check of an image's archive: it reports everything that must not be in it."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from devcluster.image_build import archives


def tar(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writing.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def archive(folder, base=(), added=("opt/multitask/bin/python",), **configuration):
    """The path of an image's archive with two layers, as ``docker save`` writes it."""
    settings = {"User": "10001:10001", "Env": ["PATH=/usr/bin"]} | configuration
    members = {
        "manifest.json": [{"Config": "c.json", "RepoTags": ["localhost/it:1"], "Layers": ["base.tar", "added.tar"]}],
        "c.json": {"config": settings, "history": [{"created_by": "/bin/sh -c pip install"}]},
    }
    layers = {"base.tar": ("usr/bin/python3.11", *base), "added.tar": added}
    path = folder / "image.tar"
    path.write_bytes(
        tar(
            {name: json.dumps(content).encode() for name, content in members.items()}
            | {name: tar(dict.fromkeys(files, b"content")) for name, files in layers.items()}
        )
    )
    return path


def problems(path):
    return list(archives.problems(archives.read(path), "10001:10001", "opt/multitask", ["packages.example"]))


def test_an_archive_is_read_with_its_name_and_its_files(tmp_path):
    contents = archives.read(archive(tmp_path))
    assert contents.references == ("localhost/it:1",)
    assert contents.layers == (("usr/bin/python3.11",), ("opt/multitask/bin/python",))


def test_an_image_as_it_should_be_has_no_problem(tmp_path):
    assert problems(archive(tmp_path)) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"User": ""}, "it runs as root, not as 10001:10001"),
        ({"Env": ["PATH=/bin", "PIP_INDEX_URL=x"]}, "PIP_INDEX_URL, which a build machine may have set"),
        ({"base": ["./etc/pip.conf"]}, "/etc/pip.conf, a setting of a machine"),
        ({"base": ["etc/apt/apt.conf.d/80Proxy"]}, "/etc/apt/apt.conf.d/80Proxy, a setting of a machine"),
        ({"added": ["root/.cache/pip/http/1"]}, "/root/.cache/pip/http/1, a setting of a machine"),
        ({"added": ["opt/multitask/a", "usr/bin/gcc"]}, "1 files outside /opt/multitask, among them /usr/bin/gcc"),
        ({"Cmd": ["--index-url=packages.example"]}, "names where this machine gets its packages"),
    ],
)
def test_content_that_must_not_be_in_an_image_is_reported(tmp_path, content, problem):
    assert any(problem in each for each in problems(archive(tmp_path, **content)))
