"""What the name of a file says: its format, or that it holds no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FORMATS: Mapping[str, str] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
}
"""Suffix → reader. JSON is told apart by its content."""
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
KNOWN_SUFFIXES = ".jsonl, .json, .csv, .tsv or .parquet"
_NEVER_COMPRESSED = ("parquet", "arrow")

_OTHER_KINDS: Mapping[str, str] = dict.fromkeys(
    ("xlsx", "xls", "xlsm", "ods"), "a workbook; save it as CSV in UTF-8"
) | (dict.fromkeys(("zip", "tar", "tgz", "7z", "rar"), "an archive; unpack it"))
_MARKERS = frozenset(
    {
        # what Hadoop and Spark write beside the parts, and the attempts that they have not finished
        *("_SUCCESS", "_metadata", "_common_metadata", "_temporary", "_spark_metadata", "_logs"),
        # the log, the index and the change feed of a Delta table; the manifests of one for other readers
        *("_delta_log", "_delta_index", "_change_data", "_symlink_format_manifest"),
        *("__MACOSX", "__pycache__"),
    }
)
_MARKER_PREFIXES = ("_committed_", "_started_", "_SUCCESS.")
_COMPANION_STEMS = ("readme", "license", "licence", "copying", "notice", "changelog", "citation", "manifest")
_COMPANION_SUFFIXES = ("md", "rst", "pdf", "py", "ipynb", "yaml", "yml", "md5", "sha1", "sha256", "crc", "lock")
_COMPANION_NAMES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def format_of(name: str) -> tuple[str, str | None] | None:
    """``(format, compression)`` by a file's name; None when it is not a data file."""
    parts = name.rsplit("/", 1)[-1].lower().split(".")
    compression = parts.pop() if parts[-1] in COMPRESSIONS else None
    reader = FORMATS.get(parts[-1]) if len(parts) > 1 else None
    if reader is None or (compression and reader in _NEVER_COMPRESSED):
        return None
    return reader, compression


def is_hidden(name: str) -> bool:
    """Whether a path below a folder is passed over: hidden files and folders, and the markers of known programs.

    Anything else that begins with ``_`` is what its name says: half of the rows may be in it.
    """
    return any(part.startswith((".", *_MARKER_PREFIXES)) or part in _MARKERS for part in name.split("/"))


def is_companion(name: str) -> bool:
    """Whether a file beside the rows is known to hold none: a README, checksums, what `datasets` writes."""
    last = name.rsplit("/", 1)[-1].lower()
    stem, suffix = last.partition(".")[0], last.rpartition(".")[2]
    if format_of(last) is not None:
        return last in _COMPANION_NAMES
    return stem in _COMPANION_STEMS or suffix in _COMPANION_SUFFIXES


def why_not_data(name: str) -> str:
    """Why a file is no data file by its name, and what to do."""
    suffix = name.lower().rpartition(".")[2]
    if suffix in _OTHER_KINDS:
        return _OTHER_KINDS[suffix]
    parts = name.lower().split(".")
    if len(parts) > 2 and parts[-1] in COMPRESSIONS and parts[-2] in _NEVER_COMPRESSED:
        return f"a compressed {parts[-2]} file; uncompress it, {parts[-2]} compresses by itself"
    return f"not a data file by its name; rename or convert it to {KNOWN_SUFFIXES}"


def data_files(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the paths below a folder those that hold rows, and those that may; in the order of their parts."""
    shown = sorted((name for name in names if not is_hidden(name) and not is_companion(name)), key=_parts)
    kept = [name for name in shown if format_of(name) is not None]
    return kept, [name for name in shown if format_of(name) is None]


def _parts(name: str) -> list[str]:
    return name.split("/")
