"""How many independent networks an arm is worth; other images and corrupted ones in the tables and on the page."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import synthetic_records

from analysis.build import build
from analysis.comparison import worth
from analysis.records.columns import FAMILIES
from mldiv.datasets.corruptions import CORRUPTIONS
from mldiv.records import study_files
from mldiv.records.contents import at_bound

ALONE = {"posterior": "deterministic", "mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}
CURVE = np.array([0.5, 0.4, 0.35, 0.34])


@pytest.mark.parametrize(
    ("nll", "size"), [(0.6, 0.0), (0.5, 1.0), (0.45, 1.5), (0.4, 2.0), (0.37, 2.6), (0.34, 4.0), (0.3, np.inf)]
)
def test_between_the_sizes_by_straight_lines(nll, size):
    assert worth.equivalent(nll, CURVE) == pytest.approx(size)
    if 0 < size < np.inf:
        assert np.interp(size, [1, 2, 3, 4], CURVE) == pytest.approx(nll)


def test_the_smallest_size_of_a_curve_that_rises_again():
    assert worth.equivalent(0.4, np.array([0.5, 0.38, 0.42, 0.36])) == pytest.approx(1 + 0.1 / 0.12)


def test_the_interval_is_the_jackknife_of_the_equivalent():
    """Against pseudo-values, in plain loops; none where some seeds say more than there are networks."""
    draws = np.random.default_rng(0)
    curves = CURVE + 0.01 * draws.normal(size=(5, 1))
    nll = curves[:, 1] + 0.005 * draws.normal(size=5)
    found, interval = worth.worth(nll, curves)
    whole = worth.equivalent(nll.mean(), curves.mean(0))
    pseudo = [
        5 * whole - 4 * worth.equivalent(np.delete(nll, seed).mean(), np.delete(curves, seed, 0).mean(0)) for seed in range(5)
    ]
    assert found == whole
    assert (interval[1] - whole) / 2.776445105 == pytest.approx(np.std(pseudo, ddof=1) / np.sqrt(5))
    assert worth.worth(nll - 0.2, curves) == (np.inf, None)
    assert worth.worth([0.4], CURVE[None]) == (pytest.approx(2.0), None)


@pytest.mark.parametrize("seeds", [3, 8, 9, 12, 16])
def test_the_ensemble_is_worth_its_own_size(seeds):
    """Whatever the last digits of a mean of many seeds are."""
    draws = np.random.default_rng(0)
    for curves in CURVE + draws.uniform(0, 0.01, (50, seeds, 4)):
        assert worth.worth(list(curves[:, -1]), curves) == (4.0, pytest.approx((4.0, 4.0)))


@pytest.fixture
def study(tmp_path):
    """A baseline, and eight networks of which each more lowers the NLL by less; corrupted images and two other sets."""
    synthetic_records.make(tmp_path, {"baseline": [0.42, 0.38, 0.41], "eight": [0.3, 0.31, 0.29]})
    for path in sorted(tmp_path.glob("trials/*")):
        record = study_files.read_trial(path)
        base = record.test["pair"]["nll"]
        if path.name.startswith("01"):
            record.config |= ALONE
            record.ensembles = {str(size): {"nll": 0.5, "scaled_nll": base + 0.3 / size} for size in range(1, 9)}
        for member in record.test:
            record.other[member] = {f"{name}/{score}_{of}": 0.9 for name in ("noise", "cifar100") for score in
                                    ("auroc", "aupr", "fpr95") for of in ("entropy", "energy")}  # fmt: skip
            record.shift[member] = {"images": 20.0} | {
                f"{score}_{level}": base + level / 10 for level in range(1, 6) for score in ("nll", "accuracy", "ece", "brier")
            }
            record.recalibrated[member] = {"vector_nll": 0.2, "isotonic_nll": 0.3, "vector_ece": 0.01, "isotonic_ece": 0.02}
        record.calibration_temperature["pair"] = 0.05 if path.name == "0001" else 1.0
        record.size = {"parameters": 2e6, "forward_flops": 1e6}
        study_files.write_trial(path, record)
    return tmp_path


def test_the_tables_and_the_page(study):
    """Sizes by hand: the mean curve is 0.3 + 0.3/k, and the baseline's calibrated NLL 0.4033 lies between 2 and 3."""
    build(study, formats=("md", "csv", "html"))
    text, page = (study / "table.md").read_text(), (study / "report.html").read_text()
    size = 2 + (0.45 - 0.40333333) / 0.05
    assert f"| baseline | {size:.2f} [" in " ".join(text.split())
    assert "The ensemble is arm eight" in text and "less than 1" not in text
    assert "| noise " in text and "| cifar100 " in text and "| energy " in text and "| largest logit" not in text
    assert "baseline (1 of 3 repeats)" in text and "eight (" not in text
    assert "Under shift" in text and "NLL vector" in text and "smooth error" in text
    assert 'id="under-shift"' in page and "20 images of each kind" in page and "By family" not in text


def test_corrupted_images_by_family(study):
    """Of each kind another score; a record without one kind has no score of its family."""
    for path in study.glob("trials/*"):
        record = study_files.read_trial(path)
        kinds = dict(zip(CORRUPTIONS, range(15), strict=True))
        for member in record.shift:
            record.shift[member] |= {
                f"{name}_{kind}": place / 100 for kind, place in kinds.items() for name in ("nll", "accuracy")
            }
        if path.name.startswith("00"):
            del record.shift["pair"]["nll_fog"]
        study_files.write_trial(path, record)
    build(study, formats=("csv",))
    table = pd.read_csv(study / "table.csv").set_index("arm").loc
    assert [table["eight", f"{name}_nll_mean"] for name in FAMILIES] == pytest.approx([0.01, 0.045, 0.085, 0.125])
    assert table["baseline", "blur_accuracy_mean"] == pytest.approx(4.5) and np.isnan(table["baseline", "weather_nll_mean"])
    assert [kind for kinds in FAMILIES.values() for kind in kinds] == list(CORRUPTIONS)


def test_without_an_ensemble_nothing_is_said(tmp_path):
    synthetic_records.make(tmp_path, {"a": [0.5, 0.4], "b": [0.4, 0.3]})
    build(tmp_path, formats=("md", "html"))
    text = (tmp_path / "table.md").read_text()
    assert "Worth in independent networks" not in text and "Under shift" not in text
    assert "under-shift" not in (tmp_path / "report.html").read_text()


def test_an_ensemble_that_is_taught_is_none(study):
    for path in study.glob("trials/01*"):
        content = json.loads((path / "trial.json").read_text())
        del content["checksum"]
        content["config"]["mutual_weight"] = 1.0
        (path / "trial.json").write_text(json.dumps(content))
    build(study, formats=("md",))
    assert "Worth in independent networks" not in (study / "table.md").read_text()


@pytest.mark.parametrize(("temperature", "stopped"), [(0.05, True), (0.0504, True), (0.06, False), (1.0, False), (19.9, True)])
def test_a_temperature_at_its_bound(temperature, stopped):
    assert at_bound(temperature) == stopped
