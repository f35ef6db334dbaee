"""The page of the Python interface: all of its lines run, in their order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_every_line_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, names)
    assert names["pair"].record.test["pair"]["accuracy"] > 0.2
    assert set(names["found"].comparisons["verdict"]) <= {"better", "worse", "equivalent", "undecided"}
    assert names["every"].shape == (2, 8, 100, 10) and names["nll"].shape == (3, 2)
    assert "the digit" in capsys.readouterr().out
