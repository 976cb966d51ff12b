"""Real data that the stages' tests share."""

from __future__ import annotations

import pytest

from florence.data.digits import write_digits


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The training split of the scanned digits."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(str(folder))
    return str(folder / "train")
