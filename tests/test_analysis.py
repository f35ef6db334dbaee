import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_records import make, write
from torchmetrics.functional.classification import binary_calibration_error

from analysis import answer, build, calibration, load, statistics, tables
from mldiv.records import RecordError, trial_folder


def test_summary_against_scipy():
    values = [0.3, 0.7, 0.4]
    summary = statistics.summarize(values)
    assert (summary.mean, summary.error, summary.n) == (pytest.approx(np.mean(values)), pytest.approx(stats.sem(values)), 3)
    assert summary.error == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert statistics.summarize([1.0]).error is None and statistics.summarize([]) is None


@given(st.lists(st.floats(-2, 2, width=32).map(lambda x: round(x, 3)), min_size=2, max_size=9))
def test_sign_flip_against_scipy(values):
    values = np.array(values)
    reference = stats.permutation_test(
        (values, np.zeros_like(values)), lambda a, b: abs(np.sum(a - b)), permutation_type="samples", n_resamples=np.inf,
        alternative="greater",
    )  # fmt: skip
    assert statistics.sign_flip(values) == pytest.approx(reference.pvalue)


def test_sign_flip_reaches_its_smallest_value():
    for n in (3, 5, 8):
        assert statistics.sign_flip(np.arange(1, n + 1)) == pytest.approx(statistics.smallest_p(n))
    assert statistics.sign_flip(np.linspace(0.5, 1.5, 20)) < 1e-4
    assert (statistics.seeds_needed(1), statistics.seeds_needed(5), statistics.seeds_needed(6)) == (6, 8, 8)
    assert 5 * statistics.smallest_p(8) <= 0.05 < 5 * statistics.smallest_p(7)


def test_t_interval_against_scipy():
    values = [0.1, -0.2, 0.4, 0.3]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.difference(values).interval == pytest.approx((expected.low, expected.high))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


def test_holm_keeps_the_family_wise_error():
    generator = np.random.default_rng(0)
    rejected = [min(statistics.holm(list(generator.random(6)))) <= 0.05 for _ in range(4000)]
    assert np.mean(rejected) < 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_ece_against_torchmetrics():
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.01, 1, 500)
    correct = generator.random(500) < confidence**1.5
    got = calibration.reliability(confidence, correct)
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).long(), n_bins=15)
    assert got.ece == pytest.approx(expected.item(), abs=1e-6)
    assert got.count.sum() == 500
    filled = got.count > 0
    total = (got.count[filled] * np.abs(got.accuracy[filled] - got.confidence[filled])).sum() / 500
    assert got.ece == pytest.approx(total)


@pytest.mark.parametrize("n", [500, 5_000])
def test_null_ece_is_what_calibrated_models_score(n):
    """Against models drawn one by one and scored by the ordinary ECE."""
    confidence = np.random.default_rng(2).uniform(0.2, 1, n)
    draws = np.random.default_rng(3)
    scored = [calibration.reliability(confidence, draws.random(n) < confidence).ece for _ in range(300)]
    error = np.std(scored) * (1 / 300 + 1 / 200) ** 0.5
    assert abs(calibration.null_ece(confidence) - np.mean(scored)) < 4 * error
    assert np.mean(scored) > 0.5 / n**0.5


NLL = {"mutual learning": [0.50, 0.60, 0.55], "rbf": [0.45, 0.56, 0.50], "cosine": [0.52, 0.59, 0.58]}


def test_table_by_hand(tmp_path):
    study = load.load(make(tmp_path, NLL))
    table = tables.summaries(study)
    text = tables.markdown(study, table, {})
    rbf = next(line for line in text.splitlines() if line.startswith("| rbf"))
    # mean (0.45 + 0.56 + 0.50) / 3; sample deviation 0.0550757, over sqrt 3
    assert "**0.5033** ± 0.0318 (3)" in rbf and "90.00 ± 0.00 (3)" in rbf
    assert "commit abc1234" in text and "No repeat failed or diverged." in text and "lowest validation NLL" in text
    frame = pd.read_csv(__import__("io").StringIO(tables.csv(study, table, {"rbf": 1.5})))
    assert frame.loc[1, "nll_mean"] == pytest.approx(0.50333333) and frame.loc[1, "nll_n"] == 3
    assert frame.loc[1, "null_ece"] == 1.5 and frame["finished"].tolist() == [3, 3, 3]


def test_three_seeds_cannot_tell(tmp_path):
    text = answer.answer(load.load(make(tmp_path, NLL)))
    assert (
        "**The data cannot tell.** The best mean is that of rbf: a difference in test NLL to mutual learning of -0.0467" in text
    )
    assert "the smallest p that the test can give is 0.25" in text and "`--seeds 7`" in text
    # (-0.05, -0.04, -0.05): all of one sign, so p is the smallest one; Holm doubles it
    assert "- rbf: -0.0467 [-0.0610, -0.0323], sign-flip p = 0.25, Holm-adjusted 0.5, n = 3" in text


def planted(folder, effect, seed, seeds=8):
    generator = np.random.default_rng(seed)
    base = 0.5 + 0.05 * generator.standard_normal(seeds)
    arms = {"mutual learning": list(base)}
    for place in range(5):
        shift = effect if place == 0 else 0.0
        arms[f"k{place}"] = list(base + shift + 0.004 * generator.standard_normal(seeds))
    return make(folder, arms, images=20)


def test_a_planted_effect_is_found_and_a_planted_null_is_not(tmp_path):
    found = [answer.answer(load.load(planted(tmp_path / f"e{seed}", -0.02, seed))) for seed in range(20)]
    assert sum("**k0 lowers the test NLL of mutual learning**" in text for text in found) >= 18
    nothing = [answer.answer(load.load(planted(tmp_path / f"n{seed}", 0.0, seed))) for seed in range(40)]
    assert sum("The data cannot tell" not in text for text in nothing) <= 6
    worse = answer.answer(load.load(planted(tmp_path / "w", 0.02, 1)))
    assert "No arm lowers the test NLL of mutual learning; k0 raises it" in worse


def test_failed_diverged_missing_and_damaged_are_counted_and_named(tmp_path):
    folder = make(tmp_path, NLL)
    write(folder, "0101", 0.1, 0.9, 20, 2, status="diverged")
    (trial_folder(folder, "0102") / "trial.json").write_text('{"schema": 2, "id')
    (trial_folder(folder, "0200") / "predictions.parquet").write_bytes(b"PAR1")
    shutil.rmtree(trial_folder(folder, "0201"))
    text = build.build(folder)
    assert "Repeats that do not enter: 1 diverged." in text
    assert "Without a finished trial: rbf: seeds 2, 3; cosine: seed 2." in text
    assert "Left out: trials/0102/trial.json: not valid JSON" in text
    assert "trials/0200/predictions.parquet cannot be read" in text
    assert "**0.4500** (1)" in text


def test_unequal_epochs_are_not_compared(tmp_path):
    folder = make(tmp_path, NLL)
    from mldiv import records

    record = records.read_trial(trial_folder(folder, "0100"))
    record.epochs = 3
    records.write_trial(trial_folder(folder, "0100"), record)
    text = answer.answer(load.load(folder))
    assert "numbers of epochs differ: pairs of rbf" in text and "n = 2" in text


def test_no_baseline_no_answer(tmp_path):
    folder = make(tmp_path, NLL)
    for trial in ("0000", "0001", "0002"):
        shutil.rmtree(trial_folder(folder, trial))
    assert "no answer yet: the baseline (mutual learning) has no finished trial" in build.build(folder)


def test_another_schema_is_refused(tmp_path):
    make(tmp_path, NLL, schema=99)
    with pytest.raises(RecordError, match="schema version 99"):
        load.load(tmp_path)


def test_everything_is_built_twice_the_same(tmp_path):
    folder = make(tmp_path / "a", NLL)
    build.build(folder)
    names = ["table.md", "table.csv", "table.tex", "answer.md", "reliability.png", "reliability.pdf"]
    first = {name: (folder / name).read_bytes() for name in names}
    build.build(folder, tmp_path / "elsewhere")
    for name in names:
        assert (tmp_path / "elsewhere" / name).read_bytes() == first[name] and len(first[name]) > 300


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_diagram_takes_any_number_of_arms(tmp_path, count):
    folder = make(tmp_path, {f"arm_{i}": [0.5, 0.6] for i in range(count)})
    build.build(folder)
    assert (folder / "reliability.png").read_bytes()[:4] == b"\x89PNG"


def latex(folder):
    study = load.load(make(folder, {"mutual learning": [0.5, 0.6], "inverse_multiquadric": [0.4, 0.5]}))
    return tables.latex(study, tables.summaries(study), {})


def test_latex_is_well_formed(tmp_path):
    text = latex(tmp_path)
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert text.count("{") == text.count("}")
    assert r"inverse\_multiquadric" in text and r"$\pm$" in text and r"\textbf{0.4500}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {len(tables.COLUMNS)}
    assert "±" not in text and "²" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + latex(tmp_path) + r"\end{document}"
    (tmp_path / "x.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True, stdout=-3)
    assert (tmp_path / "x.pdf").stat().st_size > 1000


def test_the_analysis_needs_no_torch_ray_or_optuna(tmp_path):
    folder = make(tmp_path, NLL)
    code = (
        "import sys, runpy; sys.argv = ['analysis', sys.argv[1]]\n"
        "try: runpy.run_module('analysis', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| rbf" in done.stdout


def test_a_wrong_folder_is_one_clear_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "analysis", str(tmp_path / "no")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "study.json: no such file" in done.stderr
