"""The file of callers: who is found in it, what is wrong in it, and that it is read again."""

from __future__ import annotations

import logging
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from multitask_serving.gateway.access.callers import CallersFile, InvalidCallers, hash_key, parse_callers

KEY, OTHER = "k" * 32, "o" * 40
SPIFFE = "spiffe://cluster.local/ns/team-b/sa/batch"


def entry(name: str = "shop", **fields: object) -> dict[str, object]:
    return {"name": name, "keys": [hash_key(KEY)], "allow": ["team-a"], **fields}


def text(*entries: dict[str, object]) -> str:
    return yaml.safe_dump({"callers": list(entries)})


def test_the_hash_is_sha256_of_the_key_as_sha256sum_prints_it() -> None:
    assert hash_key("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("sentence", "key", "found"),
    [
        ("its key", KEY, "shop"),
        ("its second key, during a rotation", OTHER, "shop"),
        ("the key of another", "b" * 64, "batch"),
        ("a key that nobody has", "x" * 32, None),
        ("the beginning of a key", KEY[:-1], None),
        ("a key and more", KEY + "k", None),
        ("the hash instead of the key", hash_key(KEY), None),
        ("a key in upper case", KEY.upper(), None),
        ("nothing", "", None),
        ("a key that is too short, although it is in the file", "short", None),
    ],
)
def test_a_caller_is_found_by_its_key(sentence: str, key: str, found: str | None) -> None:
    callers = parse_callers(
        text(
            entry(keys=[hash_key(KEY), hash_key(OTHER)]),
            entry("batch", keys=[hash_key("b" * 64)]),
            entry("weak", keys=[hash_key("short")]),
            entry("empty", keys=[hash_key("")]),
        ),
        "f",
    )
    caller = callers.with_key(key)
    assert (caller and caller.name) == found


@pytest.mark.parametrize(
    ("certificate", "names", "found"),
    [
        (SPIFFE, [SPIFFE], True),
        ("spiffe://cluster.local/ns/team-b/sa/*", ["batch", SPIFFE], True),
        ("spiffe://cluster.local/*", [SPIFFE], False),
        ("batch", ["batch"], True),
        ("batch", ["batch.evil.example"], False),
        ("*.example", ["a.b.example"], True),
        ("batch.example", ["batchxexample"], False),
        ("batch", [], False),
    ],
)
def test_a_caller_is_found_by_a_name_in_its_certificate(certificate: str, names: list[str], found: bool) -> None:
    callers = parse_callers(text(entry(certificates=[certificate])), "f")
    assert (callers.with_certificate(names) is not None) is found


def test_of_several_the_first_of_the_file_counts() -> None:
    callers = parse_callers(text(entry("one", certificates=["a*"]), entry("two", keys=[], certificates=["ab"])), "f")
    caller = callers.with_certificate(["ab"])
    assert caller is not None
    assert caller.name == "one"


INVALID = [
    ("no YAML", "callers: [", "f:1 is not YAML"),
    ("no mapping", "- a", "the file: "),
    ("no callers", "{}", "callers: Field required"),
    ("an unknown field", text(entry(alow=["*"])), "callers.0.alow: unknown field; did you mean allow?"),
    (
        "a field in snake case",
        text(entry(service_accounts=["a/b"])),
        "callers.0.service_accounts: unknown field; did you mean serviceAccounts?",
    ),
    ("a key that is not hashed", text(entry(keys=[KEY])), "callers.0.keys.0: has the wrong form; a key is sha256:"),
    ("an upper-case hash", text(entry(keys=[hash_key(KEY).upper()])), "callers.0.keys.0: has the wrong form"),
    ("a wrong grant", text(entry(allow=["team-a/"])), "callers.0.allow.0: Value error, 'team-a/' is not NAMESPACE"),
    ("no grants", text(entry(allow=[])), "callers.0.allow: "),
    ("no credentials", text(entry(keys=[])), "'shop' has none of keys, certificates and serviceAccounts"),
    ("a name twice", text(entry(), entry(keys=[hash_key(OTHER)])), "caller 'shop' is there twice"),
    ("a key twice", text(entry(), entry("batch")), "two callers have the same key"),
    (
        "an account without namespace",
        text(entry(serviceAccounts=["batch"])),
        "callers.0.serviceAccounts.0: has the wrong",
    ),
]


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_an_invalid_file_is_an_error_that_names_the_place_and_no_key(content: str, message: str) -> None:
    with pytest.raises(InvalidCallers) as caught:
        parse_callers(content, "f")
    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_broken_yaml_does_not_show_what_stands_around_the_error(tmp_path: Path) -> None:
    path = tmp_path / "callers.yaml"
    path.write_text(f"callers:\n- keys: [{KEY}\n  name: shop: x\n")
    with pytest.raises(InvalidCallers) as caught:
        CallersFile(path)
    assert KEY not in str(caught.value)


def test_a_changed_file_counts_and_an_invalid_one_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "callers.yaml"
    path.write_text(text(entry()))
    file = CallersFile(path)
    assert not file.refresh()

    path.write_text(text(entry("successor", keys=[hash_key(OTHER)])))
    assert file.refresh()
    assert file.callers.with_key(KEY) is None
    assert file.callers.with_key(OTHER) is not None

    caplog.set_level(logging.INFO)
    path.write_text(text(entry(keys=[KEY])))
    assert not file.refresh()
    path.unlink()
    assert not file.refresh()
    assert file.callers.with_key(OTHER) is not None
    assert "who may call is not changed" in caplog.text
    assert KEY not in caplog.text


def test_a_mounted_secret_is_replaced_by_its_link(tmp_path: Path) -> None:
    for version, name in (("one", "shop"), ("two", "successor")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "callers.yaml").write_text(text(entry(name)))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "callers.yaml").symlink_to("..data/callers.yaml")
    file = CallersFile(tmp_path / "callers.yaml")
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert file.refresh()
    assert [each.name for each in file.callers.callers] == ["successor"]


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidCallers, match="cannot be read: No such file"):
        CallersFile(tmp_path / "callers.yaml")


def test_the_file_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[4] / "docs/how-to/callers.md").read_text("utf-8")
    (block,) = re.findall(r"^   ```yaml\n(.*?)^   ```", page, re.MULTILINE | re.DOTALL)
    callers = parse_callers(textwrap.dedent(block), "callers.md")
    assert [each.name for each in callers.callers] == ["shop", "batch"]
    assert callers.callers[0].keys == (hash_key("test"),)
