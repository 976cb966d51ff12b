from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence_jobs.registry.references import (
    Reference,
    is_reference,
    parse_reference,
    registered_name,
)

NAMES = st.text(st.characters(exclude_characters="/:@", codec="utf-8"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("models:/digits-contrastive@champion", Reference("digits-contrastive", alias="champion")),
        ("digits-contrastive/12", Reference("digits-contrastive", version="12")),
        ("digits-contrastive", Reference("digits-contrastive")),
        (f"models:/m-{'0' * 32}", Reference(model_id=f"m-{'0' * 32}")),
    ],
)
def test_a_reference_is_read_as_it_is_written(text: str, means: Reference) -> None:
    assert parse_reference(text) == means
    assert is_reference(str(means))


@pytest.mark.parametrize("text", ["", "models:/", "a/b", "a@", "@b", "a/b@c", "a@b/c", "s3://b/c"])
def test_what_is_none_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write models:/NAME@champion"):
        parse_reference(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES, st.sampled_from([{}, {"version": "3"}, {"alias": "champion"}]))
def test_writing_and_reading_are_inverse(name: str, which: dict[str, str]) -> None:
    reference = Reference(name, **which)
    if not name.startswith("m-"):
        assert parse_reference(str(reference)) == reference


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=30), st.sampled_from(["contrastive", "classification"]))
def test_a_registered_name_is_one_that_a_reference_can_name(experiment: str, task: str) -> None:
    name = registered_name(experiment, task)
    assert "/" not in name
    assert ":" not in name
    assert parse_reference(f"models:/{name}/1").version == "1"
