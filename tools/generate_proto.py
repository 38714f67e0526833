"""Generate the Python modules of every ``.proto`` file beside it: ``python tools/generate_proto.py [OUTPUT_ROOT]``."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parents[1] / "client" / "src"


def generate(output: Path) -> None:
    """Write ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` under ``output``. Exits if protoc fails."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    arguments = [f"-I{SOURCE}", f"-I{well_known}", f"--python_out={output}", f"--pyi_out={output}"]
    status = protoc.main(["protoc", *arguments, f"--grpc_python_out={output}", *protos])
    if status:
        sys.exit(f"protoc failed with status {status} on {', '.join(protos)}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
