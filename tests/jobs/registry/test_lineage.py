from __future__ import annotations

from dataclasses import replace

from florence.errors import DataError
from florence_jobs.registry.lineage import LONGEST, chain
from florence_jobs.registry.store import Version
from florence_jobs.registry.tags import PARENT


def version(number: int, parent: str | None = None) -> Version:
    tags = {"florence.name": f"job-{number}"} | ({PARENT: parent} if parent else {})
    return Version(name="a", version=str(number), tags=tags)


def finder(*versions: Version):  # type: ignore[no-untyped-def]
    known = {each.uri: each for each in versions}

    def find(uri: str) -> Version:
        if uri not in known:
            raise DataError(f"{uri} is gone")
        return known[uri]

    return find


def test_a_line_goes_back_to_what_started_from_nothing() -> None:
    one, two, three = version(1), version(2, "models:/a/1"), version(3, "models:/a/2")
    line = chain(three, finder(one, two, three))
    assert [each.facts["job"] for each in line] == ["job-3", "job-2", "job-1"]


def test_it_ends_with_the_uri_of_a_model_that_is_not_registered() -> None:
    line = chain(version(1, "s3://b/imported"), finder())
    assert [(each.uri, each.version is None) for each in line] == [
        ("models:/a/1", False),
        ("s3://b/imported", True),
    ]
    assert line[-1].facts["job"] is None


def test_it_ends_with_the_name_of_a_version_that_was_deleted() -> None:
    line = chain(version(2, "models:/a/1"), finder())
    assert [each.uri for each in line] == ["models:/a/2", "models:/a/1"]


def test_a_circle_ends() -> None:
    one, two = version(1, "models:/a/2"), version(2, "models:/a/1")
    assert [each.uri for each in chain(two, finder(one, two))] == ["models:/a/2", "models:/a/1"]
    endless = replace(version(0, "models:/a/1"), name="a")
    line = chain(endless, lambda uri: version(n := int(uri[10:]), f"models:/a/{n + 1}"))
    assert len(line) == LONGEST
