"""The end of a study on a terminal: 24 lines of 80 columns, whatever its size; answer, five columns, where the rest is."""

import pytest
from helpers.synthetic_records import make

from analysis.build import build
from analysis.screen import BELOW, LINES, WIDTH


@pytest.mark.parametrize("arms", [1, 6, 25])
def test_it_fits_and_says_what_matters(tmp_path, arms):
    names = [f"the form of the terms with which the pair is trained, number {number}" for number in range(arms)]
    nll = {"mutual learning": [0.5, 0.51, 0.52]} | {
        name: [0.6 + number / 100] * 3 for number, name in enumerate(reversed(names))
    }
    lines = build(make(tmp_path, nll), formats=("md", "html") if arms < 25 else ("md",)).splitlines()
    assert len(lines) <= LINES - BELOW and max(map(len, lines)) <= WIDTH
    start = lines.index(next(line for line in lines if line.startswith("---")))
    head, rows = lines[start - 1], lines[start + 1 : lines.index("", start)]
    assert [part.strip() for part in head.split("  ") if part][1:] == ["Accuracy %", "NLL", "ECE %", "by NLL"]
    assert rows[0].startswith("mutual learning ") and rows[0].endswith(" (baseline)") and rows[1].endswith(" worse")
    files = "report.html, which has all of it; table.md" if arms < 25 else "table.md, answer.md"
    assert "the test NLL" in " ".join(lines) and files in " ".join(lines)
    if arms == 25:
        shown = len(rows) - 1
        assert rows[-1] == f"... and {26 - shown} more in table.md"
        assert (
            f"number {arms - 1}" in rows[1] and f"number {arms + 1 - shown}" in rows[-2]
        )  # the lowest NLL, in the arms' order
    else:
        assert len(rows) == 1 + arms


def test_what_is_missing_is_said(tmp_path):
    folder = make(tmp_path, {"mutual learning": [0.5, 0.51], "rbf": [0.4, 0.41]})
    (folder / "trials" / "0101" / "trial.json").write_text("{")
    text = build(folder, formats=("md",))
    assert "Incomplete: rbf: seed 2 (and 1 more: table.md)." in text and "report.html" not in text
