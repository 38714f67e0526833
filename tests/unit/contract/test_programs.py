"""Commands, options and variables of the programs, as in version 0.1.0: people, charts and older Jobs name them."""

from __future__ import annotations

import dataclasses
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from multitask_operator import settings
from multitask_operator.cli.main import cli

CLUSTER = ["--context", "--kubeconfig", "--namespace -n"]
COMMANDS = {
    "explain": ["--output", *CLUSTER, "NAME"],
    "export": ["--base", "--out", "--to", "DIR"],
    "gc": ["--dry-run", "--forget", "--output", *CLUSTER, "DIR|NAME"],
    "logs": ["--follow -f", "--tail", *CLUSTER, "NAME", "[STAGE]"],
    "plan": ["--claim", "--gpu", "--no-serve", "--output", "--refresh", "--workdir", *CLUSTER, "FILE|NAME"],
    "predict": ["[ARGUMENTS]..."],
    "report": ["--output", "--to", *CLUSTER, "DIR|NAME"],
    "rollback": ["--output", "--undo", *CLUSTER, "NAME", "[REVISION]"],
    "rollout": [],
    "run": ["--claim", "--device", "--no-serve", "--output", "--refresh", "--workdir", "FILE"],
    "serve": ["--address", "--device", "--threads", "--triton-port", "--work", "DIR"],
    "status": ["--output", *CLUSTER, "NAME"],
    "study": ["--claim", "--device", "--output", "--plan", "--workdir", "FILE"],
    "validate": ["--claim", "--output", "FILE"],
    "version": [],
}
ROLLOUT = {
    **{key: ["--output", *CLUSTER, "NAME"] for key in ("abort", "pause", "resume", "status")},
    **{key: ["--output", "--revision", *CLUSTER, "NAME"] for key in ("promote", "retry")},
}
SETTINGS = {
    "trainer_image": ("MULTITASK_TRAINER_IMAGE", "--trainer-image"),
    "image_pull_policy": ("MULTITASK_IMAGE_PULL_POLICY", "--image-pull-policy"),
    "namespaces": ("MULTITASK_NAMESPACES", "--namespaces"),
    "gpu_resource": ("MULTITASK_GPU_RESOURCE", "--gpu-resource"),
    "fixed_user": ("MULTITASK_FIXED_USER", "--fixed-user"),
    "gang_scheduling": ("MULTITASK_GANG_SCHEDULING", "--gang-scheduling"),
    "stage_pods": ("MULTITASK_STAGE_PODS", "--stage-pods"),
    "serving_image": ("MULTITASK_SERVING_IMAGE", "--serving-image"),
    "serving_pods": ("MULTITASK_SERVING_PODS", "--serving-pods"),
    "gateway_namespace": ("MULTITASK_GATEWAY_NAMESPACE", "--gateway-namespace"),
    "gateway_selector": ("MULTITASK_GATEWAY_SELECTOR", "--gateway-selector"),
    "gateway_address": ("MULTITASK_GATEWAY_ADDRESS", "--gateway-address"),
    "gateway_ca_file": ("MULTITASK_GATEWAY_CA_FILE", "--gateway-ca-file"),
    "short_name_namespaces": ("MULTITASK_SHORT_NAME_NAMESPACES", "--short-name-namespaces"),
    "max_concurrent_rollouts": ("MULTITASK_MAX_CONCURRENT_ROLLOUTS", "--max-concurrent-rollouts"),
    "workers": ("MULTITASK_WORKERS", "--workers"),
    "resync_seconds": ("MULTITASK_RESYNC_SECONDS", "--resync-seconds"),
    "grace_seconds": ("MULTITASK_GRACE_SECONDS", "--grace-seconds"),
    "health_address": ("MULTITASK_HEALTH_ADDRESS", "--health-address"),
    "health_port": ("MULTITASK_HEALTH_PORT", "--health-port"),
    "stale_seconds": ("MULTITASK_STALE_SECONDS", "--stale-seconds"),
}
#: Started by their module's name, by Jobs and by `mtm` of any version.
MODULES = (
    "multitask_trainer.pod",
    "multitask_trainer.launch",
    *(
        f"multitask_trainer.stages.{kind}"
        for kind in (
            *("prepare", "base", "baseline", "filter", "high_resource", "mixture", "bundle", "evaluate", "export"),
            *("verify", "ledger", "resolve", "gradients", "affinity", "check"),
        )
    ),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_and_options_of_mtm(name: str):
    assert sorted(_parameters(cli.commands[name])) == sorted(COMMANDS[name])


def test_there_are_no_other_commands():
    assert sorted(cli.commands) == sorted(COMMANDS)


def test_orders_for_a_rollout():
    group = cli.commands["rollout"]
    assert isinstance(group, click.Group)
    assert {name: sorted(_parameters(command)) for name, command in group.commands.items()} == {
        name: sorted(parameters) for name, parameters in ROLLOUT.items()
    }


def test_settings_of_the_operator():
    named = {each.name: (settings.variable(each.name), settings.option(each.name)) for each in _fields()}
    assert named == SETTINGS


@pytest.mark.parametrize("script", ["mtm", "kubectl-mtm", "mtm-operator"])
def test_installed_scripts(script: str):
    (entry,) = entry_points(group="console_scripts", name=script)
    assert callable(entry.load())


@pytest.mark.parametrize("module", MODULES)
def test_programs_that_are_started_by_module(module: str):
    module_spec = find_spec(module)
    assert module_spec is not None
    if module_spec.submodule_search_locations:  # a package is started by its __main__
        module_spec = find_spec(f"{module}.__main__")
        assert module_spec is not None
    assert module_spec.origin is not None
    assert '__name__ == "__main__"' in Path(module_spec.origin).read_text("utf-8")


def _fields() -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(settings.Settings)


def _parameters(command: click.Command) -> list[str]:
    context = click.Context(command)
    return [
        " ".join(sorted(each.opts)) if isinstance(each, click.Option) else each.make_metavar(context)
        for each in command.params
    ]
