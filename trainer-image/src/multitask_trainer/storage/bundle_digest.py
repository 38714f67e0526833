"""The digest of a bundle, which is its revision: of everything that decides the answers.

Apart from `export.bundle`, which writes bundles and needs the model's libraries: servers check it, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.stages.digests import digest

WEIGHT_FOLDERS = ("models", "adapters")


def bundle_digest(files: Mapping[str, str], models: Sequence[object], tasks: Sequence[object]) -> str:
    """The digest of a bundle; ``models`` and ``tasks`` are those lists of its ``bundle.json``.

    ``files``: path in the bundle → SHA-256. Only the files in `WEIGHT_FOLDERS` count.
    """
    weights = {name: sha for name, sha in files.items() if name.split("/")[0] in WEIGHT_FOLDERS}
    return digest({"files": digest(weights), "bundle": [*models, *tasks]})
