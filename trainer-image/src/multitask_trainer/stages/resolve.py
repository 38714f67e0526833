"""Program ``resolve``: fingerprints of the data and the base of a resource; runs before the graph is built.

``python -m multitask_trainer.stages.resolve --model FILE.json --data-root DIR --cache FILE --out FILE`` writes a
``Resolved`` (multitask_api.stage_io.manifest), without ``--out`` to standard output; with ``--rows`` it says how long
rows are. Problems are collected in it; the exit status is 0 whenever it could be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from multitask_api.cluster import CONFIGMAP_LIMIT, MANIFESTS_KEY, RESOLVED_KEY, ResolveOrder
from multitask_api.estimates.shape import ModelShape
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stage_io.packing import MANIFESTS_LIMIT, pack_manifests
from multitask_api.uris import is_folder, scheme_of
from multitask_trainer.base_model.folder_check import base_problem
from multitask_trainer.base_model.model_shape import model_shape
from multitask_trainer.base_model.parameter_count import parameter_count
from multitask_trainer.data.fingerprints import HashCache, resolve_data, resolve_folder
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import DataError, StageError
from multitask_trainer.jobs.row_sample import sample_rows
from multitask_trainer.runtime.packages import package_problems
from multitask_trainer.runtime.progress import ProgressReporter
from multitask_trainer.storage.files import write_atomically
from multitask_trainer.storage.result_index import stored_results
from multitask_trainer.storage.uris import NO_CREDENTIALS, local_path, storage_errors

_MIN_MANIFEST_BYTES = 16 * 1024
"""Bytes of the ConfigMap that must be left for manifests, and for progress and a failure."""
_MAX_PROBLEMS = 20
"""Problems of a resource that reach its status."""


def resolve(spec: MultiTaskModelSpec, locations: DataLocations, cache: HashCache) -> Resolved:
    """Fingerprint the data at every address and the base, or pin its revision; collect what fails as problems."""
    fields = _data_uris(spec)
    data = {uri: resolve_data(uri, locations, cache) for uri in fields}
    problem = base_problem(spec.base_model, locations)
    if is_folder(spec.base_model.uri) and problem is None:
        fields[spec.base_model.uri] = "spec.baseModel.uri"
        data[spec.base_model.uri] = resolve_folder(spec.base_model.uri, locations, cache, spec.base_model.gguf_file)
    problems = list(_data_problems(fields, {uri: found.problem for uri, found in data.items() if found.problem}))
    problems += [str(problem)] if problem else []
    problems += [f"spec.{problem}" for problem in package_problems(spec)]
    revision = None
    base = spec.base_model
    parameters = shape = None
    try:
        if scheme_of(base.uri) == "hf":
            from multitask_trainer.data.hub import resolve_revision

            revision = resolve_revision(base.uri.removeprefix("hf://").strip("/"), base.revision, "model")
        commit = revision or base.revision
        parameters = parameter_count(base.uri, commit, locations, base.gguf_file)
        shape = None if base.gguf_file else model_shape(base.uri, commit, locations)
    except DataError as error:
        problems.append(f"spec.baseModel.uri: {error}")
    problems += _unknown_layers(spec.tuning, shape)
    return Resolved(
        revision=revision, data=data, problems=tuple(problems), base_parameters=parameters, base_shape=shape
    )


def _data_problems(fields: Mapping[str, str], problems: Mapping[str, str]) -> Iterator[str]:
    """A line for each address, and one for all that lack the same credentials. ``fields``: address → its field."""
    lacking: dict[str, list[str]] = {}
    for uri, problem in problems.items():
        if problem.startswith(NO_CREDENTIALS):
            lacking.setdefault(problem, []).append(uri)
        else:
            yield f"{fields[uri]}: {uri}: {problem}"
    for problem, (first, *others) in lacking.items():
        more = f", and {len(others)} more" if others else ""
        yield f"{fields[first]}: {first}{more}: {problem}"


def _unknown_layers(tuning: Tuning, shape: ModelShape | None) -> Iterator[str]:
    """What the stage ``base`` would find out of ``targetModules`` after it has fetched the base, or trained it."""
    if shape is None or tuning.method == "Full":
        return
    known = [projection.name for projection in shape.projections()]
    for name in tuning.target_modules:
        if name not in known:
            yield (
                f"spec.tuning.targetModules: {name}: the base model has no such layer that {tuning.method} adapts; name"
                f" some of {', '.join(known)}"
            )


def report(order: ResolveOrder, environment: Mapping[str, str], reporter: ProgressReporter) -> dict[str, object]:
    """Resolve; the change to the ConfigMap that reports it, with the newest results in storage.

    ``reporter`` is told how many MiB have been read to find out what the data is.
    """
    local = local_path(order.storage)
    hashed = 0

    def on_bytes(count: int) -> None:
        nonlocal hashed
        hashed += count
        reporter.report("looking at the data", step=hashed >> 20)

    cache = HashCache(local / "resolve-cache.json" if local else None, on_bytes=on_bytes)
    resolved = _shortened(resolve(order.model.spec, DataLocations.of(".", environment), cache))
    with storage_errors(order.storage):
        cache.save()
    text = resolved.model_dump_json(by_alias=True, exclude_none=True)
    room = CONFIGMAP_LIMIT - len(order.model_dump_json(by_alias=True).encode()) - len(text.encode())
    if room < _MIN_MANIFEST_BYTES:
        raise StageError(
            f"spec.tasks: the fingerprints of {len(resolved.data)} addresses have {len(text.encode()):,} bytes, and"
            " there is no room for them in a ConfigMap beside the resource; shorten addresses, prompts or labels, or"
            " put tasks into a second MultiTaskModel"
        )
    stored = stored_results(order.storage)
    packed, reported = pack_manifests(stored, min(MANIFESTS_LIMIT, room))
    sys.stdout.write(f"{order.storage}: {len(stored)} results, {reported} reported\n")
    return {"data": {RESOLVED_KEY: text}, "binaryData": {MANIFESTS_KEY: packed}}


def _shortened(resolved: Resolved) -> Resolved:
    """With the first problems only, each of them once: all those of a large resource do not fit."""
    problems, more = resolved.problems[:_MAX_PROBLEMS], len(resolved.problems) - _MAX_PROBLEMS
    return resolved.model_copy(
        update={
            "data": {uri: each.model_copy(update={"problem": None}) for uri, each in resolved.data.items()},
            "problems": (*problems, f"and {more} more") if more > 0 else problems,
        }
    )


def _data_uris(spec: MultiTaskModelSpec) -> dict[str, str]:
    """Every address of rows → the first field that names it."""
    fields: dict[str, str] = {}
    for index, task in enumerate(spec.tasks):
        for split, source in task.data.sources.items():
            fields.setdefault(source.uri, f"spec.tasks[{index}].data.{split}.uri")
    for index, source in enumerate(spec.pretraining.corpus if spec.pretraining else ()):
        fields.setdefault(source.uri, f"spec.pretraining.corpus[{index}].uri")
    return fields


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve and write the answer."""
    parser = argparse.ArgumentParser(prog="resolve")
    parser.add_argument("--model", type=Path, required=True, help="the MultiTaskModel as JSON")
    parser.add_argument("--data-root", default=".", help="the folder that relative addresses start from")
    parser.add_argument("--cache", type=Path, help="file with hashes of data files; without it all are hashed")
    parser.add_argument("--out", type=Path, help="the Resolved file to write (default: standard output)")
    parser.add_argument("--rows", action="store_true", help="read the first rows of each task, for estimates")
    arguments = parser.parse_args(argv)
    model = MultiTaskModel.model_validate_json(arguments.model.read_text("utf-8"))
    cache = HashCache(arguments.cache)
    locations = DataLocations.of(arguments.data_root, os.environ)
    resolved = resolve(model.spec, locations, cache)
    cache.save()
    if arguments.rows:
        resolved = resolved.model_copy(update={"rows": sample_rows(model.spec, locations)})
    text = resolved.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_atomically(arguments.out, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
