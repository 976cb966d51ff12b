"""The pages that name code name what exists, links lead somewhere, and habits hold together."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = ("florence", "operator/florence_operator", "jobs/florence_jobs", "cli/florencectl")
CODE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.py)(?::([\w.]+))?`")
FOLDER = re.compile(r"`((?:[\w.-]+/)+)`")


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines: its names, and those of its classes as ``Class.name``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= _defined(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _defined(inner)}
    return frozenset(found)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def missing_names(text: str) -> list[str]:
    """The modules, names in modules and folders that a page names and that do not exist."""
    missing = []
    for path, name in CODE.findall(text):
        if "/" not in path:
            continue  # a file of the folder that the sentence is about
        file = ROOT / path
        if not file.is_file() or (name and name not in names_in(file)):
            missing.append(f"{path}:{name}")
    return missing + [path for path in FOLDER.findall(text) if not (ROOT / path).is_dir()]


@pytest.mark.parametrize(
    "page",
    [
        "docs/architecture.md",
        *sorted(f"docs/decisions/{p.name}" for p in PAGES if p.name[0] == "0"),
    ],
)
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    known = ("`data/`", "`local/`", "`cluster/`")
    for folder in known:
        text = text.replace(folder, "")
    assert not missing_names(text)


def test_names_that_do_not_exist_are_found() -> None:
    text = "`florence/kinds.py:KINDS` `florence/kinds.py:gone` `florence/none.py` `florence/no/`"
    assert missing_names(text) == ["florence/kinds.py:gone", "florence/none.py:", "florence/no/"]


def test_the_walk_names_a_function_in_each_of_ten_steps() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    walk = text.split("## One job in ten steps")[1].split("\n## ")[0]
    steps = re.split(r"(?m)^\d+\. ", walk)[1:]
    assert len(steps) == 10
    assert all(any(name for _, name in CODE.findall(step)) for step in steps)


def test_every_room_is_on_the_architecture_page() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    halls = ("florence", "operator/florence_operator")
    rooms = [
        f"{hall}/{room.parent.name}/"
        for hall in halls
        for room in ROOT.glob(f"{hall}/*/__init__.py")
    ]
    rooms += [f"{package}/" for package in PACKAGES if package not in halls]
    assert [room for room in rooms if f"`{room}`" not in text] == []


def test_every_word_of_the_glossary_is_in_the_code() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    words = {word for row in rows for word in re.findall(r"`(\w+)`", row[2])}
    assert len(words) > 30
    code: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            code |= {name.rpartition(".")[2] for name in names_in(path)}
    assert words - code == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), target


def anchors_of(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs/decisions"):
        index = (folder / "README.md").read_text(encoding="utf-8")
        for page in [*folder.glob("*.md"), *folder.glob("*.ipynb")]:
            assert page.name == "README.md" or f"({page.name})" in index, page


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def test_make_alone_tells_about_every_target() -> None:
    phony = " ".join(re.findall(r"(?m)^\.PHONY: (.*)$", makefile())).split()
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = dict(re.findall(r"(?m)^make ([\w-]+) +(\S.*)$", said))
    assert set(told) == set(phony)


def test_the_hooks_are_the_parts_of_make_check() -> None:
    (parts,) = re.findall(r"(?m)^check: ([\w ]+?) ##", makefile())
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    assert [hook["entry"] for hook in hooks] == [f"make {part}" for part in parts.split()]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_every_package_says_that_it_is_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) == set(PACKAGES)
    assert all((ROOT / package / "py.typed").is_file() for package in packages)


def test_the_license_is_the_one_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


@cache
def messages() -> tuple[str, ...]:
    """Every text in the code, with … for what an f-string fills in."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return tuple(found)


def is_a_message(heading: str) -> bool:
    """Whether some text of the code has all that a heading quotes, in its order."""
    parts = [re.escape(part) for part in heading.split("…") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in messages())


def troubles() -> list[str]:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"(?m)^### `(.+)`$", page)


@pytest.mark.parametrize("heading", troubles())
def test_a_message_of_the_troubleshooting_page_is_one_of_the_programs(heading: str) -> None:
    assert is_a_message(heading)


def test_an_invented_message_is_found() -> None:
    assert not is_a_message("the flux capacitor of … is empty")
    assert len(troubles()) > 15
