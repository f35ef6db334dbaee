import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.synthetic_records import SETTINGS, make, write

from analysis import build, tables
from analysis.__main__ import main
from analysis.answer import document
from analysis.comparison import effects
from analysis.records import load
from analysis.records.columns import GROUPS
from analysis.records.repeats import gather
from analysis.stats.statistics import Summary
from mldiv.records import study_files
from mldiv.records.checked_files import RecordError
from mldiv.records.contents import SCHEMA, Assignment
from mldiv.records.study_files import trial_folder

NLL = {"mutual learning": [0.50, 0.60, 0.55], "rbf": [0.45, 0.56, 0.50], "cosine": [0.52, 0.59, 0.58]}


def test_table_by_hand(tmp_path):
    made = build.analyse(make(tmp_path, NLL))
    text = tables.markdown(made.study, made.table)
    rbf = next(line for line in text.splitlines() if line.startswith("| rbf"))
    # mean (0.45 + 0.56 + 0.50) / 3; sample deviation 0.0550757, over sqrt 3
    assert "**0.503** ± 0.032 " in rbf
    assert "| 90.00 ± 0.00 " in rbf and "(3)" not in rbf and "Scores. n = 3." in text
    assert "commit abc1234" in text
    assert "No repeat failed or diverged." in text
    assert "lowest validation NLL" in text
    frame = tables.frame(made.study, made.table)
    assert frame.loc[1, "nll_mean"] == pytest.approx(0.50333333)
    assert frame.loc[1, "nll_n"] == 3
    assert 0 < frame.loc[1, "null_ece_mean"] < 15
    assert frame["finished"].tolist() == [3, 3, 3]


def test_the_answer_by_hand(tmp_path):
    """(-0.05, -0.04, -0.05): t = -0.0467 / (0.005774 / sqrt 3) = -14.0 with two degrees of freedom, p = 0.0051; Holm: twice."""
    text = build.analyse(make(tmp_path / "alone", NLL, predictions=False)).answer()
    assert "| rbf      | better    | -0.0467 [-0.0610, -0.0323] | 0.0051 | 0.01      | 99.7 %                |" in text
    said = (
        "**rbf lowered the test NLL against the baseline (mutual learning): -0.0467 [-0.0610, -0.0323]; cosine is undecided.**"
    )
    assert said in text and "A difference below 0.005 does not matter" in text
    assert "do not cover the choice of test images" in text
    text = build.analyse(make(tmp_path, NLL)).answer()
    assert "over test images together (200 images" in text


def test_what_matters_is_the_studys(tmp_path):
    """(0.01, 0, 0.01) less 0.0067 is within 0.1, and not within 0.005."""
    worse = {"mutual learning": [0.5, 0.6, 0.55], "rbf": [0.51, 0.6, 0.56], "cosine": [0.53, 0.62, 0.58]}
    text = build.analyse(make(tmp_path, worse, predictions=False)).answer()
    assert "cosine raised it: +0.0267" in text and "; rbf is undecided.**" in text
    wide = {"nll": 0.1, "accuracy": 0.3, "ece": 0.5}
    text = build.analyse(make(tmp_path / "wide", worse, predictions=False, margins=wide)).answer()
    assert "**Nothing made a difference that matters to the test NLL" in text and "both lie within 0.1 of it.**" in text


def test_of_two_trials_of_one_repeat_the_one_that_does_not_count_is_named(tmp_path):
    folder = make(tmp_path, {"mutual learning": [0.5], "rbf": [0.4]}, predictions=False)
    write(folder, "0200", 0.1, 0.9, 0, 0)
    items = [*study_files.read_assignments(folder), Assignment("rbf", "repeat", 1, "0200")]
    study_files.write_assignments(folder, [*items, items[-1]])
    found = load.load(folder)
    assert found.records["rbf", 1].id == "0200"
    assert found.problems[0] == "trials/0100/trial.json: rbf, seed 1 is assigned to 0200 too"


def test_a_baseline_alone_is_compared_with_nothing(tmp_path):
    build.build(make(tmp_path, {"mutual learning": [0.5, 0.6, 0.55]}), formats=("html",))
    text, page = ((tmp_path / name).read_text() for name in ("answer.md", "report.html"))
    assert "There is nothing to answer: the study compares no arm with the baseline (mutual learning)." in text
    assert "There is nothing to compare: there is no other arm." in page and "no arm has a finished" not in text + page


def test_two_seeds_decide_nothing(tmp_path):
    text = build.analyse(make(tmp_path, {"mutual learning": [0.5, 0.6], "rbf": [0.6, 0.7]})).answer()
    assert "two seeds cannot prove it" in text and "Fewer than 3 seeds" in text and "| p " not in text
    text = build.analyse(make(tmp_path / "one", {"mutual learning": [0.5], "rbf": [0.6]})).answer()
    assert "One seed says nothing of how differences vary" in text


def test_one_seed_of_an_arm_says_nothing_of_the_others(tmp_path):
    """Beside one that is decided, and one that is planned."""
    nll = {"mutual learning": [0.5, 0.52, 0.51], "rbf": [0.4, 0.41, 0.42], "cosine": [0.4, 0.52, 0.51], "linear": [0.6]}
    text = build.analyse(make(tmp_path, nll, predictions=False)).answer()
    assert "**rbf lowered the test NLL" in text
    assert "About 26 seeds would decide that (`--seeds 26`), with a chance" in text
    assert "a promise. One seed says nothing of how differences vary: it decides nothing, and nothing" in text
    assert "planned from it (linear)." in text and "nothing is decided" not in text
    del nll["rbf"]
    text = build.analyse(make(tmp_path / "undecided", nll, predictions=False)).answer()
    assert "; about 26 could in part.**" in text


def test_two_seeds_of_an_arm_have_no_p_and_lower_no_other(tmp_path):
    """As if by chance alike, beside an arm of three; Holm's correction takes that arm's p twice."""
    nll = {"mutual learning": [0.5, 0.52, 0.51], "rbf": [0.4, 0.41, 0.44], "cosine": [0.45, 0.4701]}
    made = build.analyse(make(tmp_path, nll, predictions=False))
    rbf, cosine = (made.differences["nll"][arm] for arm in ("rbf", "cosine"))
    assert cosine.interval[1] < 0 and (cosine.p, cosine.adjusted) == (1, 1)
    assert rbf.adjusted == pytest.approx(2 * rbf.p)
    (row,) = (line for line in made.answer().splitlines() if "| undecided | -0.0499" in line)
    assert [cell.strip() for cell in row.split("|")[4:8]] == ["-", "-", "-", "2"]


def said(folder, formats=("md",)):
    """What ``python -m analysis`` writes in words."""
    build.build(folder, formats=formats)
    return "".join((folder / name).read_text() for name in ("table.md", "answer.md"))


FOUND = "**k0 lowered the test NLL against the baseline (mutual learning): "


def scores(effect, seed, seeds=8):
    """Test NLL by arm: five arms about a baseline, k0 off it by ``effect``."""
    generator = np.random.default_rng(seed)
    base = 0.5 + 0.05 * generator.standard_normal(seeds)
    arms = {"mutual learning": list(base)}
    for place in range(5):
        shift = effect if place == 0 else 0.0
        arms[f"k{place}"] = list(base + shift + 0.004 * generator.standard_normal(seeds))
    return arms


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The answers to studies with an effect and the given seeds; all of them in one study's records, which takes no files."""
    study = load.load(make(tmp_path_factory.mktemp("planted"), scores(0.0, 0), predictions=False))
    repeats = gather(study)

    def draw(effect, seeds):
        found = {}
        for seed in seeds:
            for arm, values in scores(effect, seed).items():
                for repeat, value in zip(repeats[arm].values(), values, strict=True):
                    repeat.record.test["pair"]["nll"] = value
            differences = effects.differences(repeats, study.baseline, study.arms)
            found[seed] = document.answer(study, differences, effects.contrasts(repeats, {}), [])
        return found

    return draw


def test_a_planted_effect_is_found(answers):
    missed = [seed for seed, text in answers(-0.02, range(30)).items() if FOUND not in text]
    assert len(missed) <= 3, f"not found with seeds {missed}"


def test_a_planted_null_is_not_found(answers):
    """After Holm's correction at most 5 % of 80 in expectation; more than 9 has a chance of 0.7 %."""
    stays = re.compile("correction over 5 comparisons (all|not all) of")
    wrong = [seed for seed, text in answers(0.0, range(80)).items() if stays.search(text)]
    assert len(wrong) <= 9, f"something found with seeds {wrong}"


def test_an_arm_that_is_worse_is_said(answers):
    assert "k0 raised it: +0.02" in answers(0.02, [1])[1]


def test_the_command_prints_the_planted_effect(tmp_path, command):
    done = command(make(tmp_path, scores(-0.02, 3), images=20), "--format", "md")
    assert done.returncode == 0, done.stderr
    assert FOUND.strip("*") in done.stdout


def test_failed_diverged_missing_and_damaged_are_counted_and_named(tmp_path):
    folder = make(tmp_path, NLL)
    write(folder, "0101", 0.1, 0.9, 20, 2, status="diverged")
    (trial_folder(folder, "0102") / "trial.json").write_text('{"schema": 3, "id')
    (trial_folder(folder, "0200") / "predictions.parquet").write_bytes(b"PAR1")
    shutil.rmtree(trial_folder(folder, "0201"))
    text = said(folder, ("md", "html"))
    assert "Repeats that do not enter: 1 diverged." in text
    assert "Without a finished trial: rbf: seeds 2, 3; cosine: seed 2." in text
    assert "Left out: trials/0102/trial.json: not valid JSON" in text
    assert "trials/0200/predictions.parquet cannot be read" in text
    assert "**0.450** (1)" in text  # the diverged seed's 0.1 is in no mean


def test_a_trial_of_another_schema_or_with_a_cut_line_is_named_and_not_averaged(tmp_path):
    folder = make(tmp_path, NLL)
    path = trial_folder(folder, "0100")
    study_files.write_trial(path, replace(study_files.read_trial(path), schema=77))
    lines = trial_folder(folder, "0201") / "metrics.jsonl"
    lines.write_bytes(lines.read_bytes()[:-40])
    made = build.analyse(folder)
    table = made.table
    assert made.study.problems[0].startswith(f"trials/0100/trial.json: schema version 77, this mldiv reads {SCHEMA};")
    assert made.study.problems[1].startswith("trials/0201/metrics.jsonl, line 12: not valid JSON")
    assert (table["rbf"]["nll"].n, table["cosine"]["nll"].n) == (2, 3)
    assert table["cosine"]["disagreement"].n == 2  # its scores are whole, its epochs are not
    assert "Left out: trials/0100/trial.json" in tables.markdown(made.study, made.table)


@pytest.mark.parametrize("name", ["assignments.jsonl", "scaling.jsonl"])
def test_a_line_of_the_study_that_is_cut_off_is_named_and_the_others_count(tmp_path, name):
    folder = make(tmp_path, NLL)
    with (folder / name).open("a") as file:
        file.write('{"arm": "rbf", "phase": "repe')
    text = said(folder)
    assert f"Left out: {name}, line {10 if name == 'assignments.jsonl' else 1}: not valid JSON" in text
    assert "**0.503** ± 0.032" in text


def test_stopped_trials_enter_nothing(tmp_path):
    folder = make(tmp_path, NLL)
    write(folder, "0101", 0.01, 0.99, 200, 2, status="stopped")
    made = build.analyse(folder)
    assert made.table["rbf"]["nll"].n == 2
    assert made.differences["nll"]["rbf"].n == 2
    assert "Repeats that do not enter: 1 stopped." in tables.markdown(made.study, made.table)


def test_unequal_epochs_are_not_compared(tmp_path):
    folder = make(tmp_path, NLL)
    record = study_files.read_trial(trial_folder(folder, "0100"))
    record.epochs = 3
    study_files.write_trial(trial_folder(folder, "0100"), record)
    text = said(folder)
    assert "numbers of epochs differ: pairs of rbf" in text
    assert "| chance to be better   | n   |" in text


def test_no_baseline_no_answer(tmp_path):
    folder = make(tmp_path, NLL)
    for trial in ("0000", "0001", "0002"):
        shutil.rmtree(trial_folder(folder, trial))
    assert "no answer yet: the baseline (mutual learning) has no finished trial" in build.build(
        folder, formats=("md", "csv", "tex")
    )


def test_another_schema_is_refused(tmp_path):
    make(tmp_path, NLL, schema=99)
    with pytest.raises(RecordError, match="schema version 99"):
        load.load(tmp_path)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (lambda text: text[:-40], "not valid JSON"),
        (lambda text: text.replace('"seeds"', '"sead"'), "unknown fields sead"),
        (lambda text: text.replace('"scientific": "kernel"', '"scientific": 3'), "scientific = 3: expected str"),
    ],
)
def test_a_damaged_study_is_one_line_that_says_what_to_do(tmp_path, command, damaged, message):
    path = make(tmp_path, NLL) / "study.json"
    path.write_text(damaged(path.read_text()))
    done = command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"analysis: {path}: {message}")
    assert done.stderr.endswith("remove it and run the study's command again, which writes it anew and keeps every trial\n")
    assert done.stderr.count("\n") == 1


#: ``python -m analysis DIR``, and then that none of three libraries was imported.
LEAN = """
import sys, runpy
try: runpy.run_module('analysis', run_name='__main__')
except SystemExit as end: assert not end.code
assert not {'torch', 'ray', 'optuna'} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """A study folder analysed by a process of its own, and how that ended."""
    folder = make(tmp_path_factory.mktemp("process"), NLL)
    return folder, subprocess.run([sys.executable, "-c", LEAN, str(folder)], capture_output=True, text=True)


def test_the_analysis_needs_no_torch_ray_or_optuna(process):
    _, done = process
    assert done.returncode == 0, done.stderr
    assert "\nrbf " in done.stdout


def test_everything_is_built_twice_the_same(process, tmp_path):
    """There by a process of its own, here by this one."""
    folder, _ = process
    build.build(folder, tmp_path / "elsewhere")
    names = ["table.md", "table.csv", "table.tex", "answer.md", "report.html", "reliability.png", "reliability.pdf"]
    names += ["learning.png", "learning.pdf", "differences.png", "differences.pdf"]
    for name in names:
        first = (folder / name).read_bytes()
        assert len(first) > 300, name
        assert (tmp_path / "elsewhere" / name).read_bytes() == first, name


@pytest.mark.parametrize("count", [1, 5, pytest.param(12, marks=pytest.mark.slow)])
def test_the_diagram_takes_any_number_of_arms(tmp_path, count):
    folder = make(tmp_path, {f"arm_{i}": [0.5, 0.6] for i in range(count)}, images=60)
    build.build(folder, formats=("png",))
    assert (folder / "reliability.png").read_bytes()[:4] == b"\x89PNG"


def latex(folder):
    """A study of two arms, and its LaTeX."""
    made = build.analyse(make(folder, {"mutual learning": [0.5, 0.6], "inverse_multiquadric": [0.4, 0.5]}))
    return made, tables.latex("kernel", made.table, tables.caption(made.study))


def test_latex_is_well_formed(tmp_path):
    made, text = latex(tmp_path)
    groups = [group for group in GROUPS if tables.filled(made.table, group)]
    assert text.count(r"\begin{") == text.count(r"\end{") == 2 * len(groups) >= 10
    assert text.count("{") == text.count("}")
    assert r"inverse\_multiquadric" in text
    assert r"$\pm$" in text
    assert r"\textbf{0.45}" in text
    for part, group in zip(text.split(r"\begin{table}")[1:], groups, strict=True):
        rows = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in rows} == {len(tables.filled(made.table, group))}
    assert "±" not in text
    assert "²" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}" + latex(tmp_path)[1] + r"\end{document}"
    (tmp_path / "x.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True, stdout=-3)
    assert (tmp_path / "x.pdf").stat().st_size > 1000


def test_a_wrong_folder_is_one_clear_line(tmp_path, command):
    done = command(tmp_path / "no")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "study.json: no such file" in done.stderr


def test_development_images_are_called_by_their_name(tmp_path):
    held, plain = (
        build.analyse(make(tmp_path / split, NLL, settings=SETTINGS | {"test_split": split}))
        for split in ("development", "official")
    )
    said = "development images, held out from the training set"
    assert f"on {said}: mean" in tables.markdown(held.study, held.table)
    assert "on test data: mean" in tables.markdown(plain.study, plain.table)
    assert f"Wherever this says test, it means {said}; the official test set is unused." in held.answer()
    assert "Wherever" not in plain.answer()


def test_bold_is_the_better_end_of_every_column():
    """The higher accuracy and area under a ROC curve, the lower of losses and errors; other columns have no better end."""
    higher = ["accuracy", "error_entropy", "error_mi", "ood_entropy", "ood_mi"]
    lower = ["nll", "ece", "brier", "ece_15", "debiased", "adaptive_ece", "classwise_ece", "scaled_ece", "scaled_nll", "aurc"]
    neither = ["peers", "peers_nll", "null_ece", "scaling_temperature", "disagreement", "w2_per_weight", "cosine", "feature_kl"]
    names = [*higher, *lower, *neither]
    table = {arm: dict.fromkeys(names, Summary(mean, None, 1)) for arm, mean in (("small", 1.0), ("large", 2.0))}
    small, large = tables.cells(table, names, tables.MARKDOWN_BOLD)
    for name, smaller, larger in zip(names, small[1:], large[1:], strict=True):
        assert ("**" in smaller, "**" in larger) == (name in lower, name in higher), name


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch, capsys):
    study = make(tmp_path / "study", {"a": [0.5]})
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert main([str(study)]) == 2
    assert f"analysis: {study}: cannot be written; --out FOLDER names another" in capsys.readouterr().err
