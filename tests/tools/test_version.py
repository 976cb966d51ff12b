from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import florence
from florence.errors import ConfigurationError
from tools import version

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the repository that say the version, and folders that hold such files."""
    for path in version.updated(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def set_version(root: Path, new: str) -> None:
    old = f'version = "{florence.__version__}"'
    path = root / "pyproject.toml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, f'version = "{new}"'))


def test_the_version_is_the_same_everywhere() -> None:
    assert version.version_of(ROOT) == florence.__version__
    assert version.main(["--check"], ROOT) == 0


def test_a_new_version_reaches_every_file(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_version(checkout, "3.14.15")
    assert version.main(["--check"], checkout) == 1
    stale = capsys.readouterr().err
    for name in (
        *("florence/__init__.py", "charts/florence-operator/Chart.yaml", "CITATION.cff"),
        *("README.md", "docs/install.md", ".ci/run", "jobs/Dockerfile", "operator/Dockerfile"),
        *("manifests/base/manager/kustomization.yaml", "jobs/samples/florence-h.yaml"),
    ):
        assert f"{name} is stale" in stale
    assert version.main([], checkout) == 0
    assert version.main(["--check"], checkout) == 0
    left = {path for path in version.updated(checkout) if florence.__version__ in path.read_text()}
    assert left <= {checkout / "docs/reference.md"}  # which says what is older
    minio = (checkout / "manifests/components/minio/kustomization.yaml").read_text()
    assert "newTag: RELEASE." in minio
    assert "newTag: 3.14.15" in minio


@pytest.mark.parametrize("wrong", ["0.2", "1.0.0rc1", "v1.0.0"])
def test_only_versions_that_helm_takes_too(checkout: Path, wrong: str) -> None:
    set_version(checkout, wrong)
    with pytest.raises(ConfigurationError, match=r"write it as 1\.2\.3"):
        version.main([], checkout)


def test_the_changelog_tells_about_the_version() -> None:
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert headings[0] in ("## Unreleased", f"## {florence.__version__}")
