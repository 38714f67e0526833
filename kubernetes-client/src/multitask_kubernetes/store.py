"""A local copy of the objects of one kind, from a watch and from what this program has read and written itself.

A resource version only ever grows, so of two sources that are not in step the later one wins: a watch that lags behind
an own write or a live read takes nothing back. Objects are kept as compressed JSON: many are never looked at again, and
each look gets an object of its own.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from multitask_api.cluster import MODEL_LABEL
from multitask_api.types import JsonObject

Name = tuple[str, str]
"""Namespace and name."""


def whole(item: JsonObject) -> JsonObject:
    """Everything but the record of who set which field, which is often the larger half."""
    return {**item, "metadata": {name: value for name, value in item["metadata"].items() if name != "managedFields"}}


def model_label(item: JsonObject) -> str:
    """The name of the model that an object belongs to; empty for none."""
    return str((item["metadata"].get("labels") or {}).get(MODEL_LABEL, ""))


def no_summary(_: JsonObject) -> tuple[str, ...]:
    """The default of ``summary``."""
    return ()


class Entry(NamedTuple):
    """One object."""

    uid: str
    version: int
    group: str
    summary: tuple[str, ...]
    packed: bytes


class Store:
    """Objects of one kind. ``keep`` gives the part of an object that is kept, ``group`` what `of_group` finds it by,
    ``summary`` what `summaries` counts."""

    def __init__(
        self,
        keep: Callable[[JsonObject], JsonObject] = whole,
        group: Callable[[JsonObject], str] = model_label,
        summary: Callable[[JsonObject], tuple[str, ...]] = no_summary,
    ) -> None:
        self._keep = keep
        self._group = group
        self._summary = summary
        self._entries: dict[Name, Entry] = {}
        self._groups: dict[tuple[str, str], set[Name]] = {}
        self._gone: dict[str, int] = {}
        """uid of what was absent in a live read → the version of that read; until a watch has seen the deletion."""

    def get(self, namespace: str, name: str) -> JsonObject | None:
        """The object, or None."""
        entry = self._entries.get((namespace, name))
        return None if entry is None else _unpacked(entry)

    def has(self, namespace: str, name: str) -> bool:
        """Whether there is such an object."""
        return (namespace, name) in self._entries

    def of_group(self, namespace: str, group: str) -> tuple[JsonObject, ...]:
        """The objects of the group in the namespace, sorted by name."""
        return tuple(_unpacked(self._entries[name]) for name in sorted(self._groups.get((namespace, group), ())))

    def of_namespace(self, namespace: str) -> tuple[JsonObject, ...]:
        """All objects of the namespace, sorted by name."""
        return tuple(_unpacked(self._entries[name]) for name in sorted(self._entries) if name[0] == namespace)

    def summaries(self) -> Counter[tuple[str, ...]]:
        """How many objects have the same namespace and summary."""
        return Counter((namespace, *entry.summary) for (namespace, _), entry in self._entries.items())

    def put(self, item: JsonObject) -> None:
        """The object is, or was, like this."""
        name, entry = self.packed(item)
        known = self._entries.get(name)
        if entry.uid not in self._gone and (known is None or known.version < entry.version):
            self._set(name, entry)

    def drop(self, item: JsonObject) -> None:
        """A watch saw that the object was deleted."""
        name, version = _name(item), _version(item)
        self._gone.pop(item["metadata"]["uid"], None)
        known = self._entries.get(name)
        if known is not None and (known.uid == item["metadata"]["uid"] or known.version < version):
            self._remove(name)

    def packed(self, item: JsonObject) -> tuple[Name, Entry]:
        """An object in the form in which `replace` takes it."""
        text = json.dumps(self._keep(item), separators=(",", ":")).encode()
        packed = zlib.compress(text, 1)
        entry = Entry(item["metadata"]["uid"], _version(item), self._group(item), self._summary(item), packed)
        return _name(item), entry

    def replace(self, entries: Mapping[Name, Entry], version: str) -> Iterator[JsonObject]:
        """``entries`` were all objects at that version. Gives what differs: objects that are new or changed, and those
        that are gone as they were."""
        listed = int(version)
        changed = []
        for name, known in list(self._entries.items()):
            if name not in entries and known.version <= listed:
                changed.append(known)
                self._remove(name)
        for name, entry in entries.items():
            known_before = self._entries.get(name)
            absent = self._gone.get(entry.uid, -1) > listed
            if not absent and (known_before is None or known_before.version < entry.version):
                changed.append(entry)
                self._set(name, entry)
        self._gone = {uid: seen for uid, seen in self._gone.items() if seen > listed}
        return map(_unpacked, changed)

    def learn(self, namespace: str, group: str, items: Iterable[JsonObject], version: str) -> None:
        """``items`` were all objects of the group in the namespace at that version, by a live read."""
        listed = int(version)
        names = set()
        for item in items:
            names.add(_name(item))
            self.put(item)
        for name in self._groups.get((namespace, group), set()) - names:
            known = self._entries[name]
            if known.version <= listed:
                self._gone[known.uid] = listed
                self._remove(name)

    def _set(self, name: Name, entry: Entry) -> None:
        if name in self._entries:
            self._remove(name)
        self._entries[name] = entry
        self._groups.setdefault((name[0], entry.group), set()).add(name)

    def _remove(self, name: Name) -> None:
        group = (name[0], self._entries.pop(name).group)
        self._groups[group].discard(name)
        if not self._groups[group]:
            del self._groups[group]


def _unpacked(entry: Entry) -> JsonObject:
    item: JsonObject = json.loads(zlib.decompress(entry.packed))
    return item


def _name(item: JsonObject) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _version(item: JsonObject) -> int:
    # Resource versions of one kind may be compared as numbers (KEP-5504); an API server has never given others.
    return int(item["metadata"]["resourceVersion"])
