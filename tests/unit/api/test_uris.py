"""Which URIs are the same folder or contain each other."""

from __future__ import annotations

import pytest

from multitask_api.uris import overlap

# two URIs, whether they overlap
CASES = [
    ("pvc://models/desk", "pvc://models/desk", True),
    ("pvc://models/desk", "pvc://models/desk/", True),
    ("pvc://models/desk", "pvc://models//./desk", True),
    ("pvc://models/desk", "pvc://models", True),
    ("pvc://models/desk", "pvc://models/desk/stages/base", True),
    ("pvc://models/desk", "pvc://models/desk-2", False),
    ("pvc://models/desk", "pvc://models-2/desk", False),
    ("pvc://models/desk", "s3://models/desk", False),
    ("s3://bucket/a/b", "S3://bucket/a", True),
    ("file:///mnt/a", "/mnt/a/b", True),
    ("file:///mnt/a/../b", "/mnt/b", True),
    ("file:///mnt/a", "/mnt/b", False),
]


@pytest.mark.parametrize(("one", "other", "expected"), CASES)
def test_overlap(one, other, expected):
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected
