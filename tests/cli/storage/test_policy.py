"""What a policy allows, judged by an evaluator of its own over every action and key of a world."""

from __future__ import annotations

import fnmatch
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from florence.errors import ConfigurationError
from florencectl.storage.policy import Grant, grants, policy, same_policy

NAMESPACES = ("team", "team2", "tea")
KEYS = [
    f"{folder}{name}"
    for folder in (
        "",
        "runs/",
        *(f"runs/{each}/" for each in NAMESPACES),
        *(f"{each}/" for each in NAMESPACES),
        "digits/",
        "digits2/",
        "runs/digits/",
    )
    for name in ("x", "team/x", "a/b")
]
ON_OBJECTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


def allows(document: dict[str, Any], action: str, resource: str, prefix: str | None = None) -> bool:
    """Amazon's rules, of the part that is used: any statement that matches allows."""
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        if action not in statement["Action"]:
            continue
        if not any(fnmatch.fnmatchcase(resource, each) for each in statement["Resource"]):
            continue
        patterns = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if patterns and not any(fnmatch.fnmatchcase(prefix or "", each) for each in patterns):
            continue
        return True
    return False


def worlds() -> Iterator[Grant]:
    for base, shared in itertools.product(("runs", "", "a/b"), ((), ("digits",))):
        if base or not shared:
            yield Grant("florence", base, "team", shared)


@pytest.mark.parametrize("grant", worlds(), ids=lambda grant: grant.summary)
def test_a_namespace_may_touch_its_folder_and_nothing_else(grant: Grant) -> None:
    document = policy(grant)
    own = f"{grant.base}/team/" if grant.base else "team/"
    for key in [*KEYS, f"{own}x", f"{own}deep/er"]:
        mine, shared = key.startswith(own), key.startswith(tuple(f"{p}/" for p in grant.shared))
        for action in ON_OBJECTS:
            expected = mine or (shared and action == "s3:GetObject")
            assert allows(document, action, f"arn:aws:s3:::florence/{key}") is expected, (
                action,
                key,
            )
            assert not allows(document, action, f"arn:aws:s3:::florence2/{key}")
        folder = key[: key.rindex("/") + 1] if "/" in key else ""
        may_list = folder.startswith((own, *(f"{p}/" for p in grant.shared)))
        bucket = "arn:aws:s3:::florence"
        assert allows(document, "s3:ListBucket", bucket, folder) is may_list, folder
    assert not allows(document, "s3:ListBucket", bucket, None)
    for action in ("s3:PutBucketPolicy", "s3:DeleteBucket", "s3:ListBucketMultipartUploads"):
        assert not allows(document, action, bucket)


def test_each_folder_has_a_user_of_its_own() -> None:
    places = [
        Grant(bucket, base, namespace)
        for bucket in ("a", "b")
        for base in ("", "r", "r-s", "r/s")
        for namespace in ("t", "s-t", "s")
    ]
    folders = {(grant.bucket, grant.prefix) for grant in places}
    assert len({grant.user for grant in places}) == len(folders)


def test_the_same_policy_in_another_order_is_the_same() -> None:
    document = policy(Grant("b", "runs", "team", ("digits", "web")))
    shuffled = json.loads(json.dumps(document))
    for statement in shuffled["Statement"]:
        random.Random(0).shuffle(statement["Action"])
        statement["Resource"].reverse()
        del statement["Sid"]
    shuffled["Statement"].reverse()
    assert same_policy(document, shuffled)
    shuffled["Statement"][0]["Resource"][0] += "x"
    assert not same_policy(document, shuffled)


@pytest.mark.parametrize(
    ("base", "namespace", "shared", "words"),
    [
        ("runs", "Team", (), "name of a namespace"),
        ("runs", "a/b", (), "name of a namespace"),
        ("runs", "*", (), "name of a namespace"),
        ("runs/*", "team", (), "prefix in a policy"),
        ("runs", "team", ("${aws:username}",), "prefix in a policy"),
        ("runs", "team", ("runs",), "cannot be read by all"),
        ("runs", "team", ("runs/other",), "cannot be read by all"),
        ("a/runs", "team", ("a",), "cannot be read by all"),
        ("", "team", ("other",), "cannot be read by all"),
    ],
)
def test_what_would_grant_more_is_refused(
    base: str, namespace: str, shared: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Grant("b", base, namespace, shared)


def test_namespaces_and_prefixes_count_once() -> None:
    found = grants("b", "runs", ["x", "y", "x"], ["/digits/", "digits"])
    assert [(grant.namespace, grant.shared) for grant in found] == [
        ("x", ("digits",)),
        ("y", ("digits",)),
    ]
