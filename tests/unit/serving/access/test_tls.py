"""TLS: encrypted ports, a certificate that is replaced while the gateway runs, and callers with certificates."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from multitask_client import (
    AsyncTaskClient,
    GatewayError,
    InvalidRequest,
    PermissionDenied,
    TaskClient,
    Tls,
    Unavailable,
)
from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.tls import CertificateFolder, InvalidCertificate
from multitask_serving.gateway.server import running_gateway
from support.certificates import Authority, authority
from unit.serving.access.conftest import BATCH, SHOP_KEY


@pytest.fixture(scope="module")
def ca() -> Authority:
    return authority()


@pytest.fixture
def folder(tmp_path: Path, ca: Authority) -> Path:
    return ca.issue(tmp_path / "tls", "gateway")


async def names(address: str, tls: Tls | bool, key: str | None = None) -> list[str]:
    async with AsyncTaskClient(address, timeout_s=10, api_key=key, tls=tls) as client:
        return [task.full_name for task in await client.tasks()]


async def test_a_key_over_tls(routes: Path, callers: Path, folder: Path) -> None:
    access, certificate = Access(CallersFile(callers)), CertificateFolder(folder)
    async with running_gateway(routes, "127.0.0.1:0", access=access, certificate=certificate) as gateway:
        address = f"127.0.0.1:{gateway.port}"
        assert await names(address, Tls(folder / "ca.crt"), SHOP_KEY) == ["team-a/desk/stance", "team-a/desk/urgency"]
        with pytest.raises(Unavailable):
            await names(address, False, SHOP_KEY)
        with pytest.raises(Unavailable):  # an authority that the client does not know
            await names(address, True, SHOP_KEY)


def test_the_blocking_client_has_the_same_options(routes: Path, folder: Path, tmp_path: Path) -> None:
    for tls, problem in (
        (Tls(tmp_path / "nothing"), "nothing cannot be read: No such file"),
        (Tls(folder / "ca.crt", certificate=folder / "tls.crt"), "only one of certificate and key"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            TaskClient("127.0.0.1:1", tls=tls)
    with TaskClient("127.0.0.1:1", api_key=SHOP_KEY, tls=Tls(folder / "ca.crt")) as client, pytest.raises(Unavailable):
        client.tasks()
    for key in (f"{SHOP_KEY}\n", "é" * 40, b"x" * 40):
        with pytest.raises(InvalidRequest, match="api_key: has characters that no header can have") as caught:
            TaskClient("127.0.0.1:1", api_key=key)  # type: ignore[arg-type]
        assert SHOP_KEY not in str(caught.value)


async def test_the_name_in_the_certificate_counts_unless_another_one_is_given(
    routes: Path, tmp_path: Path, ca: Authority
) -> None:
    folder = ca.issue(tmp_path / "tls", "gateway", dns=("gateway.team-a.svc",), uri="spiffe://a/b")  # not 127.0.0.1
    async with running_gateway(routes, "127.0.0.1:0", certificate=CertificateFolder(folder)) as gateway:
        address = f"127.0.0.1:{gateway.port}"
        with pytest.raises(Unavailable):
            await names(address, Tls(folder / "ca.crt"))
        assert await names(address, Tls(folder / "ca.crt", server_name="gateway.team-a.svc"))


async def test_a_replaced_certificate_counts_from_the_next_connection_on(
    routes: Path, folder: Path, ca: Authority, tmp_path: Path
) -> None:
    successor = authority("successor")
    async with running_gateway(routes, "127.0.0.1:0", certificate=CertificateFolder(folder)) as gateway:
        address = f"127.0.0.1:{gateway.port}"
        old = shutil.copy(folder / "ca.crt", tmp_path / "old.crt")
        async with AsyncTaskClient(address, timeout_s=10, tls=Tls(old)) as connected:
            assert await connected.tasks()
            successor.issue(folder, "gateway")
            assert await names(address, Tls(folder / "ca.crt"))
            with pytest.raises(Unavailable):
                await names(address, Tls(old))
            assert await connected.tasks(), "a connection stays"


@pytest.mark.parametrize(
    ("sentence", "file", "content"),
    [
        ("a key of another certificate", "tls.key", None),
        ("an empty certificate", "tls.crt", b""),
        ("no PEM", "tls.crt", b"-----BEGIN CERTIFICATE-----\nx\n"),
    ],
)
async def test_a_broken_certificate_does_not_replace_a_good_one(
    routes: Path, folder: Path, tmp_path: Path, ca: Authority, caplog: pytest.LogCaptureFixture,
    sentence: str, file: str, content: bytes | None,
) -> None:  # fmt: skip
    async with running_gateway(routes, "127.0.0.1:0", certificate=CertificateFolder(folder)) as gateway:
        other = ca.issue(tmp_path / "other", "gateway") / file
        (folder / file).write_bytes(other.read_bytes() if content is None else content)
        assert await names(f"127.0.0.1:{gateway.port}", Tls(folder / "ca.crt"))
        assert "the certificate is not changed" in caplog.text
        caplog.set_level(logging.INFO)
        ca.issue(folder, "gateway")
        assert await names(f"127.0.0.1:{gateway.port}", Tls(folder / "ca.crt"))
        assert "certificate read from" in caplog.text
    with pytest.raises(InvalidCertificate, match="are no certificate and its key"):
        (folder / file).write_bytes(other.read_bytes() if content is None else content)
        CertificateFolder(folder)


def test_a_folder_without_a_certificate_stops_the_start(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidCertificate, match=r"tls\.key cannot be read: No such file"):
        CertificateFolder(tmp_path / "nothing")
    (folder / "ca.crt").unlink()
    certificate = CertificateFolder(folder)
    with pytest.raises(InvalidCertificate, match=r"ca\.crt is missing; callers' certificates are verified against it"):
        certificate.credentials(require_client_certificate=True)


async def test_callers_with_a_certificate_have_a_port_of_their_own(
    routes: Path, callers: Path, folder: Path, tmp_path: Path, ca: Authority
) -> None:
    batch = ca.issue(tmp_path / "batch", "batch", uri=BATCH)
    unknown = ca.issue(tmp_path / "unknown", "unknown", uri="spiffe://cluster.local/ns/team-b/sa/other")
    foreign = authority("foreign").issue(tmp_path / "foreign", "batch", uri=BATCH)

    def own(client: Path) -> Tls:
        return Tls(folder / "ca.crt", client / "tls.crt", client / "tls.key")

    async with running_gateway(
        routes,
        "127.0.0.1:0",
        access=Access(CallersFile(callers)),
        certificate=CertificateFolder(folder),
        mutual_tls_address="127.0.0.1:0",
    ) as gateway:
        plain, mutual = f"127.0.0.1:{gateway.port}", f"127.0.0.1:{gateway.mutual_tls_port}"
        tasks = ["team-b/secret-desk/urgencies", "team-b/secret-desk/urgency"]
        assert sorted(await names(mutual, own(batch))) == tasks
        with pytest.raises(PermissionDenied, match="no caller has a certificate for unknown, spiffe") as caught:
            await names(mutual, own(unknown))
        assert caught.value.reason == "CALLER_UNKNOWN"
        for tls in (own(foreign), Tls(folder / "ca.crt")):
            with pytest.raises(Unavailable):
                await names(mutual, tls)
        # a key counts more than a certificate, and the other port does not ask for one
        assert await names(mutual, own(batch), SHOP_KEY) == ["team-a/desk/stance", "team-a/desk/urgency"]
        with pytest.raises(GatewayError, match="who calls is not said"):
            await names(plain, own(batch))
