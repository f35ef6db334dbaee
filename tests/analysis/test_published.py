"""Numbers in README and on the first page of docs/ come out of the records beside them."""

from pathlib import Path

import pytest

from analysis.build import analyse
from analysis.records.columns import COLUMNS
from analysis.tables import MARKDOWN_BOLD, cells

CHECKOUT = Path(__file__).parents[2]


def rows(text, first):
    """The table in a Markdown text whose first column is called so: its rows as lists of cells, the titles first."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_demos_table_is_made_from_its_records(page):
    made = analyse(CHECKOUT / "docs" / "results" / "demo")
    assert not made.study.problems
    text = (CHECKOUT / page).read_text()
    titles, _, *body = rows(text, "kernel")
    names = [next(name for name, column in COLUMNS.items() if column.title == title) for title in titles[1:]]
    assert body == cells(made.table, names, MARKDOWN_BOLD)
    caption = text[text.index("*Demo preset:") :].split("\n")[0]
    assert f"commit {made.study.header.environment['commit']}" in caption
