"""Every method of a gateway for callers with a certificate, on the port that asks for one; and without it there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from multitask_client import Tls
from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.reviews import TokenReviews
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.server import running_gateway
from support.certificates import authority
from unit.serving.access.conftest import BATCH, SHOP_KEY
from unit.serving.access.test_access import (
    COLUMNS,
    DENIED,
    LABEL_KEY,
    METHODS,
    OK,
    UNAVAILABLE,
    UNKNOWN,
    outcome,
    review,
)
from unit.serving.access.test_reviews import token


class Certificate(NamedTuple):
    """Whose certificate is shown, and with which key or token; ``port``: which port is called."""

    whose: str | None
    key: str | None = None
    port: str = "mutual"


IDENTITIES = {
    "batch": Certificate("batch"),
    "nobody that is known": Certificate("unknown"),
    "batch, with the key of shop": Certificate("batch", SHOP_KEY),
    "nobody that is known, with the key of shop": Certificate("unknown", SHOP_KEY),
    "batch, with a wrong key": Certificate("batch", "x" * 40),
    "nobody that is known, with the token of a pod of team-b": Certificate("unknown", token()),
    "of another authority, with batch's name": Certificate("foreign"),
    "of another authority, with the key of shop": Certificate("foreign", SHOP_KEY),
    "none": Certificate(None),
    "none, with the key of shop": Certificate(None, SHOP_KEY),
    "batch, at the port that asks for none": Certificate("batch", None, "plain"),
    "batch, with the key of shop, at the port that asks for none": Certificate("batch", SHOP_KEY, "plain"),
}

#: Batch may call team-b: the status for its certificate, in the order of METHODS.
FOR_BATCH = [
    *(DENIED, DENIED, UNAVAILABLE, DENIED, UNAVAILABLE, DENIED, "NOT_FOUND", DENIED),  # Predict
    *(DENIED, UNAVAILABLE),  # PredictStream
    *(DENIED, OK),  # GetTask
    *(DENIED, OK, DENIED, "INVALID_ARGUMENT"),  # ReportLabel
    *(OK, OK),  # ListTasks, Reflection
    *(OK, OK, "UNIMPLEMENTED"),  # Health, an unknown method
]


def expected(row: int, name: str) -> str:
    """The status for an identity. A key or token counts before a certificate; without a certificate of the authority
    nothing is heard at all."""
    method, _, for_keys = METHODS[row]
    identity = IDENTITIES[name]
    if identity.port == "mutual" and identity.whose in (None, "foreign"):
        return UNAVAILABLE
    if identity.key is not None:
        same = {SHOP_KEY: "shop", token(): "a pod of team-b"}.get(identity.key, "a wrong key")
        return for_keys[COLUMNS.index(same)]
    if identity.port == "plain":
        return for_keys[COLUMNS.index("nobody")]
    if identity.whose == "batch":
        return FOR_BATCH[row]
    return OK if method.startswith("Health") else "UNIMPLEMENTED" if method == "an unknown method" else DENIED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a certificate each."""
    root, ca = tmp_path_factory.mktemp("certificates"), authority()
    ca.issue(root / "gateway", "gateway")
    ca.issue(root / "batch", "batch", uri=BATCH)
    ca.issue(root / "unknown", "unknown", uri="spiffe://cluster.local/ns/team-b/sa/other")
    authority("foreign").issue(root / "foreign", "batch", uri=BATCH)
    return root


def tls_of(certificates: Path, whose: str | None) -> Tls:
    ca = certificates / "gateway" / "ca.crt"
    return Tls(ca, certificates / whose / "tls.crt", certificates / whose / "tls.key") if whose else Tls(ca)


@pytest.mark.parametrize("row", range(len(METHODS)), ids=[f"{method} {task}".strip() for method, task, _ in METHODS])
async def test_the_status_for_each_certificate(routes: Path, callers: Path, certificates: Path, row: int) -> None:
    method, task, _ = METHODS[row]
    async with running_gateway(
        routes,
        "127.0.0.1:0",
        access=Access(CallersFile(callers), TokenReviews(review)),
        certificate=CertificateFolder(certificates / "gateway"),
        mutual_tls_address="127.0.0.1:0",
        label_key=LABEL_KEY,
    ) as gateway:
        ports = {"plain": gateway.port, "mutual": gateway.mutual_tls_port}
        statuses = {
            name: await outcome(
                f"127.0.0.1:{ports[identity.port]}", method, task, identity.key, tls_of(certificates, identity.whose)
            )
            for name, identity in IDENTITIES.items()
        }
    assert statuses == {name: expected(row, name) for name in IDENTITIES}


def test_a_status_is_written_down_for_every_method() -> None:
    assert len(FOR_BATCH) == len(METHODS)
    assert {UNKNOWN, DENIED, UNAVAILABLE, OK} <= {
        expected(row, name) for row in range(len(METHODS)) for name in IDENTITIES
    }
