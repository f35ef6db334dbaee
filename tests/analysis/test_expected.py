"""The ECE's interval and its null in the table are those of the predictions."""

import numpy as np
import pytest
from helpers.synthetic_records import make

from analysis.comparison import expected
from analysis.records.load import load
from analysis.records.repeats import gather
from analysis.stats import calibration

NLL = {"mutual learning": [0.5, 0.6, 0.55], "single": [0.45, 0.56, 0.5]}


def test_interval_and_null_against_the_predictions(tmp_path):
    repeats = gather(load(make(tmp_path, NLL, members={"single": "peers"})))
    found = [repeat.predictions for repeat in repeats["mutual learning"].values()]
    eces = [calibration.reliability(member.confidence, member.correct).ece for (member,) in found]
    pair = expected.interval(found)
    assert pair.estimate == pytest.approx(np.mean(eces)) and pair.low < pair.estimate < pair.high and pair.seeds == 3
    both = expected.interval([repeat.predictions for repeat in repeats["single"].values()])
    assert both.estimate == pytest.approx(pair.estimate)  # both peers predict as the pair does here
    low, high = expected.null_range(found)
    draws = np.random.default_rng(0)
    scored = [
        calibration.reliability(f[0].confidence, draws.random(200) < f[0].confidence).ece for f in found for _ in range(400)
    ]
    assert low < 100 * np.mean(scored) < high
    assert 0.92 < np.mean((np.array(scored) * 100 > low) & (np.array(scored) * 100 < high)) < 0.98
    text = "\n".join(expected.markdown(repeats))
    assert f"| mutual learning | {100 * pair.estimate:.2f} [{100 * pair.low:.2f}, {100 * pair.high:.2f}] (3)" in text


def test_one_seed_and_no_predictions(tmp_path):
    alone = gather(load(make(tmp_path / "a", {"mutual learning": [0.5]})))
    assert "no interval (n = 1)" in expected.markdown(alone)[1]
    assert expected.markdown(gather(load(make(tmp_path / "b", NLL, predictions=False)))) == []
