"""What the documents name is there: the tree of files, links between files, headings they point to."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mldiv.evaluation.metrics import Predictive
from mldiv.records.contents import LINE
from mldiv.storage import full_predictions
from mldiv.training.final_scores import other_table, predictions_table

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Headings as the addresses they get on a page: lower case, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """Links of a document to files or headings that are not there."""
    missing = []
    for link in LINK.findall(CODE.sub("", document.read_text())):
        name, _, heading = link.partition("#")
        target = document.parent / name if name else document
        if "://" in link:
            continue
        if not target.exists() or (heading and heading not in anchors(target.read_text())):
            missing.append(link)
    return missing


def test_the_tree_names_every_file():
    text = (ROOT / "docs" / "layout.md").read_text()
    for path in [*(ROOT / "mldiv").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]:
        assert path.name.startswith("__") or path.name in text, path.name
    studies = text.partition("\nstudies/ ")[2].partition("\nbenchmarks/ ")[0]
    assert {path.stem for path in (ROOT / "studies").glob("*.py")} <= set(re.findall(r"\w+", studies))


def test_no_folder_holds_more_than_nine_files():
    folders = [ROOT / "mldiv", ROOT / "analysis", *(ROOT / "mldiv").rglob("*/"), *(ROOT / "analysis").rglob("*/")]
    held = {folder: [path.name for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {folder: names for folder, names in held.items() if len(names) > 9} == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document):
    assert not broken(document)


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# One, two\n[x](b.md) [y](#one-two) [z](#three) [w](https://example.org/none) [v](a.md#one-two)"
        "\n```python\nf[0](x)\n```\n"
    )
    assert broken(tmp_path / "a.md") == ["b.md", "#three"]


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="no checkout")
def test_what_documents_link_to_is_not_ignored():
    targets = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in LINK.findall(CODE.sub("", document.read_text()))
        if "://" not in link and not link.startswith("#")
    }
    done = subprocess.run(["git", "check-ignore", *map(str, targets)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""


COMMAND = re.compile(r'`python -m pytest ([^`"]+?)(?: -k "([^"]+)")?`')


def unknown(text: str) -> list[str]:
    """What a page's pytest commands name that is not there: files, folders, and parts of tests' names."""
    missing = []
    for places, names in COMMAND.findall(text):
        paths = [ROOT / place for place in places.split()]
        missing += [str(path) for path in paths if not path.exists()]
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
        tests = [name for file in files if file.exists() for name in TEST.findall(file.read_text(encoding="utf-8"))]
        missing += [part for part in filter(None, names.split(" or ")) if not any(part in name for name in tests)]
    return missing


def test_the_page_of_flags_is_what_the_commands_say():
    page = runpy.run_path(str(ROOT / "docs" / "site" / "flags.py"))["page"]()
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == page, "python docs/site/flags.py > docs/flags.md"


def test_the_page_of_records_names_every_column_and_every_field_of_a_line():
    page = (ROOT / "docs" / "records.md").read_text()
    of_pair = {"pair": Predictive(torch.full((2, 3), 1 / 3), torch.zeros(2))}
    columns = {*predictions_table(of_pair, {}, torch.zeros(2, dtype=torch.long)), *other_table(of_pair)}
    assert {name for name in columns | LINE.keys() | {full_predictions.COLUMN} if f"`{name}`" not in page} == set()


def test_the_site_has_a_place_for_every_page():
    nav = re.findall(r"^ +(?:# )?- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | {
        "index.md",
        "measured.md",
        "contributing.md",
        "changelog.md",
    }
    assert pages <= set(nav) | {"index.md"}


TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)


def test_every_command_of_the_attacked_names_tests_that_there_are():
    text = (ROOT / "docs" / "attacked.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert all(len(COMMAND.findall(row)) == 1 for row in rows)
    assert len(rows) > 10
    assert not unknown(text)


def test_a_command_that_names_nothing_is_found():
    text = '`python -m pytest tests/nowhere tests/test_terminal.py -k "codes_are_written_out or codes_are_obeyed"`'
    assert unknown(text) == [str(ROOT / "tests/nowhere"), "codes_are_obeyed"]
