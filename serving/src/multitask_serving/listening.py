"""Whether a server can listen at an address: found out before anything slow starts."""

from __future__ import annotations

import errno
import os
import socket

from multitask_api.errors import UserError
from multitask_serving.cli_common import parse_host_port


class AddressInUse(UserError):
    """A server cannot listen at its address."""


def check_address(address: str, remedy: str = "choose another address") -> None:
    """Raise `AddressInUse`, with the ``remedy``, if a server cannot listen at ``address`` (host:port) now."""
    parts = parse_host_port(address, first_port=0)
    if parts is None:
        raise AddressInUse(f"{address!r} is not host:port, for example 127.0.0.1:8081")
    host, port = parts[0].strip("[]"), parts[1]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = host == "::" and socket.has_dualstack_ipv6()
    try:
        # Without SO_REUSEPORT, which other servers may have set: two would share the connections.
        with socket.create_server((host, port), family=family, dualstack_ipv6=dual):
            pass
    except OSError as error:
        # Python adds the address to what the system says; a resolver has numbers of its own.
        reason = os.strerror(error.errno) if error.errno and error.errno in errno.errorcode else error.strerror
        raise AddressInUse(f"cannot listen at {address}: {reason}; {remedy}") from error
