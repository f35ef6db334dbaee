"""A stored study gives the stored tables and the stored answer, byte for byte.

The folder golden/study holds what `python tests/analysis/test_golden.py --study` wrote: arms of pairs and of single networks,
a search, contrasts.
Without --study it writes the expected files anew after a change that is meant to move them; read the diff.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from analysis.build import build
from mldiv.records import study_files
from mldiv.records.contents import Assignment

GOLDEN = Path(__file__).resolve().parent / "golden"
FILES = ("table.md", "table.csv", "table.tex", "answer.md")
NLL = {
    "single": [0.62, 0.66, 0.64, 0.63, 0.65, 0.67, 0.62, 0.66],
    "mutual learning": [0.50, 0.60, 0.55, 0.52, 0.58, 0.61, 0.49, 0.57],
    "with a": [0.47, 0.58, 0.52, 0.50, 0.55, 0.59, 0.47, 0.54],
    "with b": [0.50, 0.59, 0.56, 0.52, 0.58, 0.60, 0.50, 0.57],
    "with both": [0.46, 0.57, 0.52, 0.49, 0.55, 0.58, 0.46, 0.53],
}
CONTRASTS = {
    "main effect of a": {"with a": 0.5, "with both": 0.5, "mutual learning": -0.5, "with b": -0.5},
    "interaction": {"with both": 1.0, "mutual learning": 1.0, "with a": -1.0, "with b": -1.0},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with what the stored study gives."""
    folder = tmp_path_factory.mktemp("golden")
    build(GOLDEN / "study", folder, formats=("md", "csv", "tex"))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_the_stored_study_gives_the_stored_file(name, built):
    assert (built / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_the_stored_answer_is_the_planted_one():
    """Two arms lower the NLL by more than 0.02 in every seed, one raises it; Holm over four."""
    answer = (GOLDEN / "answer.md").read_text()
    lowered = (
        "**with both and with a lowered the test NLL against the baseline (mutual learning), most for with both: -0.0325 ["
    )
    assert lowered in answer and "; single raised it: +0.0913 [+0.0681, +0.1144]; with b is undecided.**" in answer
    assert "| with a    | better    | -0.0250 [" in answer and "| < 0.0001 | < 0.0001  |" in answer
    assert "| with b    | undecided | +0.0000 [" in answer and "main effect of a is below 0 (-0.0287 [" in answer


def write_study(folder: Path) -> None:
    from helpers.synthetic_records import make, write

    shutil.rmtree(folder, ignore_errors=True)
    members, chosen = {"single": "peers"}, {arm: {"alpha": 0.5} for arm in ("with a", "with both")}
    make(folder, NLL, images=30, baseline="mutual learning", members=members, contrasts=CONTRASTS, chosen=chosen,
         compare=[arm for arm in NLL if arm != "mutual learning"])  # fmt: skip
    items = study_files.read_assignments(folder)
    for number, alpha in enumerate((1.0, 0.5, 2.0)):
        write(folder, f"search{number}", 0.5 + 0.01 * number, 0.9, 0, 0, alpha=alpha)
        items.append(Assignment("with a", "search", 0, f"search{number}"))
    study_files.write_assignments(folder, items)
    header = json.loads((folder / "study.json").read_text())
    study_files.write_json(folder / "study.json", header | {"environment": {"mldiv": "golden", "commit": "golden"}})


if __name__ == "__main__":
    sys.path.insert(0, str(GOLDEN.parents[1]))
    if "--study" in sys.argv:
        write_study(GOLDEN / "study")
    build(GOLDEN / "study", GOLDEN, formats=("md", "csv", "tex"))
