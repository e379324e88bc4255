"""What the pages for readers point at is there: files, headings, modules, tests, folders."""

import re
import shutil
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATED = ROOT / "docs" / "lab"  # its pages tell of the program of their day
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PRESENT = [page for page in PAGES if page.parent != DATED]
PACKAGE = ROOT / "cikd_cli"
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"\b(?:tests|benchmarks|templates|docs|cikd_cli)/[\w./-]*\w")
MODULE = re.compile(rf"({'|'.join(sorted(FOLDERS - {'runs'}))})/(\w+\*?)(?:\.(\w+))?$")  # runs/ are a user's too


def named(page):
    return str(page.relative_to(ROOT))


def headings(page):
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            assert not anchor or anchor in headings(found), target


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_every_file_and_module_that_is_named_is_there(page):
    text = page.read_text(encoding="utf-8")
    for path in FILE.findall(text):
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path
    for code in CODE.findall(text):
        if match := MODULE.match(code):
            folder, module, name = match.groups()
            files = list(PACKAGE.glob(f"{folder}/{module}.py"))
            assert files, code
            assert name is None or any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files)
        if re.fullmatch(r"test_\w+", code):
            assert (ROOT / "tests" / f"{code}.py").exists(), code


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_every_choice_of_tests_chooses_one(page):
    tests = "\n".join(re.findall(r"def (test_\w+)", "\n".join(p.read_text() for p in (ROOT / "tests").glob("*.py"))))
    choices = re.findall(r'-k (?:"([^"]+)"|(\w+))', page.read_text(encoding="utf-8"))
    for word in chain.from_iterable(" ".join(choice).split() for choice in choices):
        assert word == "or" or word in tests, word


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "architecture.md"], ids=named)
def test_the_tree_of_the_house_has_every_folder_of_the_package(page):
    assert set(re.findall(r"^    (\w+)/ ", page.read_text(encoding="utf-8"), re.MULTILINE)) == FOLDERS


def test_the_python_of_the_readme_names_the_class_of_an_image(teacher, photos, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copytree(teacher, "runs/lm-001")
    shutil.copy(next(photos.rglob("*.png")), "photo.jpg")
    exec(compile(code, "README.md", "exec"), {})
    name, probability = capsys.readouterr().out.split()
    assert name in ("bars", "dots", "rows")
    assert 1 / 3 <= float(probability) <= 1
