"""The program behind ``mtm export``: writes the adapters of an exported result for another engine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from multitask_api.errors import MultitaskError
from multitask_serving.cli_common import ArgumentParser, program_name, replace_unencodable_characters
from multitask_trainer.adapter_export.folders import Target, write_export
from multitask_trainer.adapter_export.source import read_source


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Exit status 0: written; 2: it cannot be, for a reason that is printed."""
    replace_unencodable_characters()
    options = _parser().parse_args(arguments)
    try:
        source = read_source(options.artifact)
        folder = write_export(source, options.to, options.out, options.base)
    except (MultitaskError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for adapter in source.adapters:
        tasks = ", ".join(task.name for task in adapter.tasks)
        sys.stdout.write(f"{folder / 'adapters' / adapter.name}: {tasks}\n")
    sys.stdout.write(f"{_next_step(options.to, folder, options.base or str(source.base))}\n")
    return 0


def _next_step(target: Target, folder: Path, base: str) -> str:
    if target == "vllm":
        return f"next: sh {folder}/serve.sh"
    if target == "triton-vllm":
        return f"next: tritonserver --model-repository {folder}/model_repository, with Triton's vLLM backend"
    return f"next: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), ADAPTER)"


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=program_name("multitask_trainer.adapter_export"), description=__doc__)
    parser.add_argument("artifact", type=Path, metavar="DIR", help="the exported result")
    parser.add_argument("--to", choices=get_args(Target), required=True, help="the format")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--base", metavar="NAME", help="the name of the base where it is served")
    return parser


if __name__ == "__main__":
    sys.exit(main())
