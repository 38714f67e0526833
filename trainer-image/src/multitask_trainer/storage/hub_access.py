"""When the Hugging Face Hub does not answer: which errors say so, and what its user can do."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

NOT_ANSWERED = (OSError, httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError)
"""What a call of the Hub raises that had no answer; the last two where httpx cannot use the proxy."""


def is_outage(error: BaseException) -> bool:
    """Whether waiting may help: other libraries wrap that the Hub did not answer in errors of all kinds."""
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError

    outage = (ConnectionError, TimeoutError, LocalEntryNotFoundError, httpx.TransportError)
    return not HF_HUB_OFFLINE and any(isinstance(each, outage) for each in _chain(error))


def unreachable_hub(error: BaseException) -> str:
    """That there is no answer and no copy here, why, and the next step."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    copy = "give the path of a copy as uri"
    if HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE keeps this machine from asking the hub, and it has no copy; unset it, or {copy}"
    causes = list(_chain(error))
    cause = next((each for each in causes if isinstance(each, httpx.TransportError)), error)
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    step = (
        "set HTTPS_PROXY where a proxy leads to it, or HF_ENDPOINT where it has a mirror (in a cluster proxy and "
        "hubEndpoint of the chart)"
    )
    if any("CERTIFICATE_VERIFY_FAILED" in str(each) for each in causes):
        step = "set SSL_CERT_FILE to a file with the authorities that this network trusts (in a cluster caBundle)"
    host = urlsplit(ENDPOINT).netloc or ENDPOINT
    return f"the hub at {host} cannot be reached ({reason}), and this machine has no copy; {step}, or {copy}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
