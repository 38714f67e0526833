"""What `helm install` prints: the next commands, of which each comes to its end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from devcluster import binaries, chart

#: A template that shows the notes: helm prints them itself only where there is a cluster.
SHOW = """apiVersion: v1
kind: Notes
metadata: {name: notes}
text: {{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}
"""


@pytest.fixture
def notes(tmp_path: Path, helm: str) -> Callable[..., str]:
    def render(*values: str) -> str:
        folder = tmp_path / "chart"
        if not folder.exists():
            shutil.copytree(chart.CHART, folder)
            (folder / "templates" / "show.yaml").write_text(SHOW)
        options = [option for value in values for option in ("--set", value)]
        argv = [helm, "template", "mtm", str(folder), "--namespace", "operators", "--kube-version", binaries.KUBERNETES]
        argv += ["--show-only", "templates/show.yaml"]
        done = subprocess.run([*argv, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["text"])

    return render


def test_they_wait_for_ready_where_models_are_served(notes: Callable[..., str]) -> None:
    text = notes()
    assert "kubectl wait mtm --all --for=condition=Ready " in text
    assert "mtm predict --address localhost:8081 --ca ca.crt --api-key-file api-key" in text
    assert "helm test mtm -n operators" in text


@pytest.mark.parametrize("gateway", ["true", "false"])
def test_of_an_installation_that_only_trains_they_wait_for_nothing_that_never_comes(
    notes: Callable[..., str], gateway: str
) -> None:
    text = notes("serving.enabled=false", f"gateway.enabled={gateway}", "namespaces={team}")
    assert "kubectl wait mtm --all --for=condition=Trained --timeout=6h -n team" in text
    assert "mtm report support-desk -n team" in text
    assert not [word for word in ("=Ready", "predict", "helm test", "port-forward") if word in text]


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("gateway.callers.enabled=false", "WARNING: gateway.callers.enabled is false."),
        ("gateway.tls.mode=None", "WARNING: gateway.tls.mode is None."),
    ],
)
@pytest.mark.parametrize("serving", ["true", "false"])
def test_they_warn_of_a_gateway_that_is_open(notes: Callable[..., str], value: str, warning: str, serving: str) -> None:
    assert warning in notes(value, f"serving.enabled={serving}")
