"""Which cluster a command means. Loads no Kubernetes client: a command about a file on this machine needs none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: A valid name of a resource.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class ClusterOptions:
    """The options that choose a cluster and a namespace; None: what the kubeconfig has."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None

    @property
    def given(self) -> bool:
        """Whether one of them was given."""
        return (self.namespace, self.context, self.kubeconfig) != (None, None, None)

    def refers_to(self, name: str) -> bool:
        """Whether ``name`` means a resource in a cluster, and not a file or folder.

        It does if one of the options is given, or if it is a valid name and no file or folder is called so.
        """
        return self.given or (_NAME.fullmatch(name) is not None and not Path(name).exists())
