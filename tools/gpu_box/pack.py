"""Packs what a bare machine with one NVIDIA GPU lacks, into ``.gpu-run/``: ``python pack.py --data DIR``.

The machine has Python 3.12, torch, transformers, peft and accelerate, and no network. Folders ``.gpu-run/1``, ``2``, …
hold the packages that it lacks, the rows of the open suite that are used, and the GGUF file of the base in pieces: one
folder goes with each copy of the repository. There, in the repository's root:

    sh tools/gpu_box/receive.sh OUT         after each copy
    sh tools/gpu_box/smoke.sh OUT           when the first folder is there
    sh tools/gpu_box/speed.sh OUT 240       likewise
    sh tools/gpu_box/evidence.sh OUT 5      when all are there
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/benchmarks"))

import evidence

import smollm2
from devcluster import cache

ROOT = Path(__file__).parents[2]
TARGET = ROOT / ".gpu-run"
PIECES = 3
OWN_DISTRIBUTIONS = ("operator",)
"""Whose version is read at run time; their code is that of the repository."""


def packages(site: Path) -> None:
    """Fill ``site`` with the packages of requirements.lock, for Linux on x86-64 and Python 3.12."""
    command = [
        smollm2.UV, "pip", "install", "--quiet", "--python", sys.executable, "--target", site, "--no-deps",
        "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28", "--require-hashes",
        "-r", Path(__file__).with_name("requirements.lock"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    for name in OWN_DISTRIBUTIONS:
        version = re.search(r'^version = "(.+)"', (ROOT / name / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
        assert version is not None
        folder = site / f"multitask_{name}-{version[1]}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: multitask-{name}\nVersion: {version[1]}\n", "utf-8"
        )


def archive(folder: Path, file: Path, mode: str) -> None:
    """A tar file of what lies in ``folder``."""
    with tarfile.open(file, mode) as opened:  # type: ignore[call-overload]
        for path in sorted(folder.iterdir()):
            opened.add(path, path.name)


def pack(data: Path) -> None:
    """Write the folders. Raises smollm2.WrongModel."""
    gguf = smollm2.gguf().read_bytes()
    shutil.rmtree(TARGET, ignore_errors=True)
    size = -(-len(gguf) // PIECES)
    for number in range(PIECES):
        folder = TARGET / str(number + 1)
        folder.mkdir(parents=True)
        (folder / f"base.gguf.{number}").write_bytes(gguf[number * size : (number + 1) * size])
    first = TARGET / "1"
    (first / "base.pieces").write_text(str(PIECES), "utf-8")
    with cache.scratch_folder(TARGET / ".scratch") as scratch:
        packages(scratch / "site")
        archive(scratch / "site", first / "site.tar.xz", "w:xz")
        evidence.prepare(evidence.parse(["--data", str(data), "--base", "", "--workdir", str(scratch)]))
        archive(scratch / "data", first / "rows.tar", "w")


def main() -> int:
    """Pack, and print what there is."""
    parser = argparse.ArgumentParser(description="Pack what a bare machine with one NVIDIA GPU lacks.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the open suite's tasks")
    options = parser.parse_args()
    try:
        pack(options.data.resolve())
    except smollm2.WrongModel as error:
        print(error, file=sys.stderr)
        return 1
    for path in sorted(TARGET.glob("*/*")):
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
