"""resolve: what stands behind the addresses of a resource right now; runs before the graph is built.

``python -m multitask_trainer.stages.resolve --model FILE.json --data-root DIR --cache FILE --out FILE`` writes a
``Resolved`` (multitask_api.stage_io.manifest), without ``--out`` to standard output. Problems are collected in it; the
exit status is 0 whenever it could be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from multitask_api.cluster import CONFIGMAP_LIMIT, MANIFESTS_KEY, RESOLVED_KEY, ResolveOrder
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stage_io.packing import MANIFESTS_LIMIT, pack_manifests
from multitask_api.uris import is_folder, scheme_of
from multitask_trainer.data.fingerprints import HashCache, resolve_data, resolve_folder
from multitask_trainer.data.places import Places
from multitask_trainer.errors import DataError, StageError
from multitask_trainer.inventory import results
from multitask_trainer.storage import local_path, reaching, write_atomically

#: Bytes for manifests, without which a report is none; progress and failures take some, too.
_LEAST_ROOM = 16 * 1024
#: Of the problems of a resource, so many reach its status.
_MOST_PROBLEMS = 20


def resolve(spec: MultiTaskModelSpec, places: Places, cache: HashCache) -> Resolved:
    """Fingerprint every data address and the base, or pin its revision; what fails is a problem of its address."""
    data = {address: resolve_data(address, places, cache) for address in dict.fromkeys(_addresses(spec))}
    if is_folder(spec.base_model.uri):
        data[spec.base_model.uri] = resolve_folder(spec.base_model.uri, places, cache)
    problems = [f"{address}: {found.problem}" for address, found in data.items() if found.problem]
    revision = None
    base = spec.base_model
    try:
        if scheme_of(base.uri) == "hf":
            from multitask_trainer.data.hub import resolve_revision

            revision = resolve_revision(base.uri.removeprefix("hf://").strip("/"), base.revision, "model")
    except DataError as error:
        problems.append(f"spec.baseModel: {error}")
    return Resolved(revision=revision, data=data, problems=tuple(problems))


def report(order: ResolveOrder, environment: Mapping[str, str]) -> dict[str, object]:
    """What a resolve pod writes into its ConfigMap: what `resolve` found, and the newest results in storage."""
    local = local_path(order.storage)
    cache = HashCache(local / "resolve-cache.json" if local else None)
    found = _brief(resolve(order.model.spec, Places.of(".", environment), cache))
    with reaching(order.storage):
        cache.save()
    text = found.model_dump_json(by_alias=True, exclude_none=True)
    room = CONFIGMAP_LIMIT - len(order.model_dump_json(by_alias=True).encode()) - len(text.encode())
    if room < _LEAST_ROOM:
        raise StageError(
            f"spec.tasks: what was found at {len(found.data)} addresses has {len(text.encode()):,} bytes, and has no"
            " room in a ConfigMap beside the resource; shorten addresses, prompts or labels, or put tasks into a second"
            " MultiTaskModel"
        )
    packed, kept = pack_manifests(there := results(order.storage), min(MANIFESTS_LIMIT, room))
    sys.stdout.write(f"{order.storage}: {len(there)} results, {kept} reported\n")
    return {"data": {RESOLVED_KEY: text}, "binaryData": {MANIFESTS_KEY: packed}}


def _brief(found: Resolved) -> Resolved:
    """With the first problems, each said once: those of every address of a large resource would not fit."""
    problems, more = found.problems[:_MOST_PROBLEMS], len(found.problems) - _MOST_PROBLEMS
    return found.model_copy(
        update={
            "data": {address: each.model_copy(update={"problem": None}) for address, each in found.data.items()},
            "problems": (*problems, f"and {more} more") if more > 0 else problems,
        }
    )


def _addresses(spec: MultiTaskModelSpec) -> Iterator[str]:
    for task in spec.tasks:
        yield from (task.data.train.uri, task.data.validation.uri, task.data.test.uri)
    for source in spec.pretraining.corpus if spec.pretraining else ():
        yield source.uri


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve and write the answer."""
    parser = argparse.ArgumentParser(prog="resolve")
    parser.add_argument("--model", type=Path, required=True, help="the MultiTaskModel as JSON")
    parser.add_argument("--data-root", default=".", help="the folder that relative addresses start from")
    parser.add_argument("--cache", type=Path, help="hashes of files already seen; none are kept without it")
    parser.add_argument("--out", type=Path, help="the Resolved file to write (default: standard output)")
    arguments = parser.parse_args(argv)
    model = MultiTaskModel.model_validate_json(arguments.model.read_text("utf-8"))
    cache = HashCache(arguments.cache)
    found = resolve(model.spec, Places.of(arguments.data_root, os.environ), cache)
    cache.save()
    text = found.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_atomically(arguments.out, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
