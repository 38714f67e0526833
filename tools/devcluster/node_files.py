"""Configuration files of a node: containerd, CNI, kubelet, kube-proxy and CoreDNS. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Map = dict[str, Any]

NODE = "one"
#: These addresses exist only in the cluster's network namespace.
ADDRESS = "10.99.0.1"
PODS = "10.98.0.0/24"
BRIDGE = "mtm0"


def containerd_config(run: Path, root: Path, pause: str) -> str:
    """containerd's TOML. ``root`` keeps images between runs; ``pause`` is the sandbox image of pods."""
    cri = "plugins.'io.containerd.grpc.v1.cri'"
    return f"""\
version = 2
root = "{root}"
state = "{run / "containerd-state"}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{run / "containerd.sock"}"

[plugins.'io.containerd.internal.v1.opt']
path = "{run / "containerd-opt"}"

[{cri}]
sandbox_image = "{pause}"
stream_server_address = "127.0.0.1"
# A sandboxed root may lack CAP_SYS_RESOURCE, and a kernel the hugetlb controller.
restrict_oom_score_adj = true
disable_hugetlb_controller = true
tolerate_missing_hugetlb_controller = true

[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{run / "cni"}"

[{cri}.containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def cni_config(run: Path) -> str:
    """The CNI network list: a bridge without a route to the outside."""
    ipam = {
        "type": "host-local",
        "dataDir": str(run / "addresses"),
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": ipam,
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "one-node", "plugins": [bridge]})


def kubelet_config(run: Path, pki: Path, cgroup: str) -> Map:
    """KubeletConfiguration; ``cgroup`` is the path below which all pods' groups lie."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{run / 'containerd.sock'}",
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(run / "resolv.conf"),
        "makeIPTablesUtilChains": False,
        "volumePluginDir": str(run / "volume-plugins"),
        "podLogsDir": str(run / "pod-logs"),
        # There is no registry to pull an image from again: none is collected, and pods are evicted late.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 100,
        "oomScoreAdj": 0,
    }


def proxy_config(config: Path) -> Map:
    """KubeProxyConfiguration; ``config`` is its kubeconfig. It writes no sysctl."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(config)},
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def corefile(config: Path) -> str:
    """CoreDNS's Corefile: names of the cluster and no others."""
    return f"""\
.:53 {{
  bind {ADDRESS}
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {config}
    ttl 2
  }}
  cache 2
}}
"""
