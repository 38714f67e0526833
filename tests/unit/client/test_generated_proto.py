"""The committed protobuf modules are what the generator makes of the committed source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROTO = ROOT / "client" / "src" / "multitask_client" / "proto"


def test_generating_again_gives_the_committed_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_proto.py", tmp_path], check=True)
    generated = {path.name: path.read_text() for path in (tmp_path / "multitask_client" / "proto").iterdir()}
    assert set(generated) == {"gateway_pb2.py", "gateway_pb2.pyi", "gateway_pb2_grpc.py"}
    assert {name: (PROTO / name).read_text() for name in generated} == generated
