"""A PersistentVolumeClaim and its volume on a cluster of one node: a folder of the machine as a local volume."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from devcluster.node_files import NODE

Map = dict[str, Any]


def persistent_volume(namespace: str, claim: str, folder: Path, size: str = "4Gi") -> Map:
    """A PersistentVolume of ``folder`` for one claim; any pod of the node may mount it."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


def persistent_volume_claim(namespace: str, name: str, size: str = "4Gi") -> Map:
    """A PersistentVolumeClaim that the volume above is for."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}},
    }


def let_pods_write(folder: Path) -> Path:
    """Make the folder writable for pods, which run as another user in group 10001."""
    subprocess.run(["chgrp", "-R", "10001", str(folder)], check=True)
    subprocess.run(["chmod", "-R", "g+rwX", str(folder)], check=True)
    return folder
