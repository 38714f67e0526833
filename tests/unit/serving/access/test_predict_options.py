"""``mtm predict`` against a gateway with TLS and keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.server import running_gateway
from multitask_serving.predict import main
from support.certificates import authority
from unit.serving.access.conftest import BATCH, SHOP_KEY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca = authority()
    ca.issue(tmp_path / "batch", "batch", uri=BATCH)
    (tmp_path / "key").write_text(f"{SHOP_KEY}\n")
    return ca.issue(tmp_path / "tls", "gateway", dns=("gateway",))


HOW = "of `mtm predict`, tls=Tls(ca=FILE) of a client (`helm get notes RELEASE` shows how to read the chart's)"
# options (GATEWAY and MUTUAL: the ports; DIR: the folder), exit status, a part of the output
CASES = [
    (["GATEWAY", "--ca", "DIR/tls/ca.crt", "--api-key-file", "DIR/key"], 0, "team-a/desk/stance"),
    (["GATEWAY", "--ca", "DIR/tls/ca.crt", "--api-key-file", "DIR/key", "--server-name", "gateway"], 0, "stance"),
    (
        ["GATEWAY", "--ca", "DIR/tls/ca.crt", "--api-key-file", "DIR/key", "--server-name", "other"],
        1,
        "error: 127.0.0.1",
    ),
    (["GATEWAY", "--ca", "DIR/tls/ca.crt"], 1, "with an API key. Give a key with --api-key-file FILE of `mtm predict`"),
    (
        ["GATEWAY", "--tls", "--api-key-file", "DIR/key"],
        1,
        "The gateway's certificate cannot be checked: give its authority with --ca FILE of `mtm predict`",
    ),
    (["GATEWAY", "--api-key-file", "DIR/key"], 1, f". If the gateway has TLS, give its authority with --ca FILE {HOW}"),
    (
        ["MUTUAL", "--ca", "DIR/tls/ca.crt", "--cert", "DIR/batch/tls.crt", "--key", "DIR/batch/tls.key"],
        0,
        "team-b/secret-desk/urgency",
    ),
    (["GATEWAY", "--api-key-file", "DIR/no"], 2, "DIR/no cannot be read"),
    (["GATEWAY", "--ca", "DIR/no"], 2, "error: tls: DIR/no cannot be read: No such file"),
    (["GATEWAY", "--cert", "DIR/batch/tls.crt"], 2, "error: --cert and --key belong together"),
]


@pytest.mark.parametrize(("options", "status", "said"), CASES)
async def test_options(
    routes: Path,
    callers: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    said: str,
) -> None:
    root = str(folder.parent)
    async with running_gateway(
        routes,
        "127.0.0.1:0",
        access=Access(CallersFile(callers)),
        certificate=CertificateFolder(folder),
        mutual_tls_address="127.0.0.1:0",
    ) as gateway:
        ports = {"GATEWAY": gateway.port, "MUTUAL": gateway.mutual_tls_port}
        arguments = ["--output", "json", "--timeout", "10", "--address", f"127.0.0.1:{ports[options[0]]}"]
        arguments += [each.replace("DIR", root) for each in options[1:]]
        assert await asyncio.to_thread(main, arguments) == status
    output = capsys.readouterr()
    assert said.replace("DIR", root) in output.out + output.err
    assert SHOP_KEY not in output.out + output.err


async def test_a_gateway_without_tls_is_told_from_one_that_is_away(
    routes: Path, callers: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = str(folder / "ca.crt")
    async with running_gateway(routes, "127.0.0.1:0", access=Access(CallersFile(callers))) as gateway:
        address = f"127.0.0.1:{gateway.port}"
        assert await asyncio.to_thread(main, ["--timeout", "10", "--address", address, "--ca", ca]) == 1
    assert "The gateway answers without TLS: leave out --ca, --cert and --tls" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["--timeout", "10", "--address", address]) == 1
    error = capsys.readouterr().err
    assert error.endswith(". Check the address; `mtm serve DIR` starts a gateway\n")
    assert "TLS" not in error
