"""Where the ``tritonserver`` binary and its parts are: in NVIDIA's image, or in the PyPI package nvidia-pytriton.

The package is used for its binary only and never imported. What the binary needs, tried with Triton 2.51:

- the Python backend looks for its stub beside its library; the package keeps one stub per Python version elsewhere, so
  a folder of links brings the two together;
- with numpy 2 the package's stub silently reads wrong numbers, so numpy 2 is rejected.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from multitask_api.errors import UserError

IMAGE = Path("/opt/tritonserver")
"""Triton in NVIDIA's images. Its stub is for the image's own Python."""


class TritonNotInstalled(UserError):
    """The environment lacks something that Triton needs."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The paths of the server's parts."""

    binary: Path
    backends: Path
    caches: Path
    stub: Path


def find_installation(image: Path = IMAGE) -> Installation:
    """The server of the ``image``, or else of this environment. Raises `TritonNotInstalled`."""
    if (image / "bin" / "tritonserver").exists():
        backends = image / "backends"
        stub = backends / "python" / "triton_python_backend_stub"
        return Installation(image / "bin" / "tritonserver", backends, image / "caches", stub)
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonNotInstalled("tritonserver is not installed: run `uv pip install --no-deps nvidia-pytriton`")
    root = Path(spec.submodule_search_locations[0]) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise TritonNotInstalled(f"nvidia-pytriton has no stub for Python {version}: use Python 3.11 or 3.12")
    numpy = importlib.metadata.version("numpy")
    if int(numpy.partition(".")[0]) >= 2:
        raise TritonNotInstalled(
            f"numpy {numpy} is installed, and Triton's stub does not work with it: install 'numpy<2'"
        )
    return Installation(root / "bin" / "tritonserver", root / "backends", root / "caches", stub)


def link_backends(installation: Installation, folder: Path) -> Path:
    """Fill ``folder`` with the Python backend and its stub, as Triton looks for them; returns ``folder``."""
    python = folder / "python"
    python.mkdir(parents=True, exist_ok=True)
    for source in (*(installation.backends / "python").iterdir(), installation.stub):
        link = python / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return folder
