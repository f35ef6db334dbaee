"""What a study's own question adds: the sentence in the answer is that of the records."""

import json

import numpy as np
import pytest
from helpers.synthetic_records import SCALING, SETTINGS, make, write

from analysis import build
from mldiv.records import checked_files, study_files
from mldiv.records.contents import Assignment

NLL = {"mutual learning": [0.5, 0.6], "searched": [0.45, 0.56]}
SEARCHED = {"mutual learning": [], "searched": ["alpha", "beta"]}


def balance(folder, value, points=24, seeds=(0, 10_001), statuses=()):
    """A study with a search over alpha and beta whose NLL is ``value(log10 alpha, log10 beta)``, seeds at levels of their own.

    statuses: how the first four points' trials ended, by seed, where they did not finish.
    """
    ranges = {"alpha": [0.01, 10.0], "beta": [0.02, 20.0]}
    make(folder, NLL, predictions=False, searched=SEARCHED, surface=ranges, search_seeds=list(seeds))
    items, draws = study_files.read_assignments(folder), np.random.default_rng(1)
    for number in range(points):
        a, b = draws.uniform(-2, 1), draws.uniform(-1.7, 1.3)
        for place, seed in enumerate(seeds):
            trial, noise = f"s{number:02d}{place}", 0.0005 * draws.standard_normal()
            status = statuses[place] if statuses and number < 4 else "finished"
            write(folder, trial, value(a, b) + 0.1 * place + noise, 0.9, 0, seed, status, alpha=10**a, beta=10**b)
            record = study_files.read_trial(folder / "trials" / trial)
            record.config["seed"] = seed
            study_files.write_trial(folder / "trials" / trial, record)
            items.append(Assignment("searched", "search", seed, trial))
    study_files.write_assignments(folder, items)
    return folder


@pytest.fixture(scope="module")
def valley(tmp_path_factory):
    """A study whose valley's floor is at alpha 0.1, beta 10, far from the paper's weights; analysed once."""
    folder = tmp_path_factory.mktemp("valley")
    return build.analyse(balance(folder, lambda a, b: 0.5 + 0.02 * (a + 1) ** 2 + 0.02 * (b - 1) ** 2))


def test_a_planted_optimum_is_in_the_answer(valley):
    sentence = next(line for line in valley.answer().splitlines() if line.startswith("- **The balance**"))
    assert "outside that region" in sentence
    assert "do not locate" not in sentence
    low, high = (float(part) for part in sentence.split("alpha in [")[1].split("]")[0].split(","))
    assert low <= 0.1 <= high < 1
    low, high = (float(part) for part in sentence.split("beta in [")[1].split("]")[0].split(","))
    assert 2 < low <= 10 <= high


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A study whose surface is flat, and four of whose points have one trial that diverged; analysed once."""
    folder = tmp_path_factory.mktemp("plain")
    return build.analyse(balance(folder, lambda a, b: 0.5, statuses=("diverged", "finished")))


def test_a_flat_surface_locates_nothing(plain):
    assert "the data do not locate an optimum: the surface cannot be told from a flat one" in plain.answer()


def test_a_point_with_one_finished_trial_stays(plain):
    """Of 24 points with two trials each."""
    section = next(finding.section for finding in plain.findings if finding.title == "Response surface")
    assert "44 searched trials: 24 pairs" in section.body


def test_too_few_points_are_said(tmp_path):
    build.build(balance(tmp_path / "study", lambda a, b: 0.5, points=3), tmp_path / "out", formats=("png",))
    assert "needs at least 6 finished points, there are 3" in (tmp_path / "out" / "answer.md").read_text()
    assert not list((tmp_path / "out").glob("surface.*"))


def test_points_that_no_surface_can_be_fitted_to_are_said(tmp_path):
    """One half of the points has finished with one seed, the other with the other: their levels cannot be told apart."""
    folder = balance(tmp_path / "study", lambda a, b: 0.5, points=12)
    for number in range(12):
        path = folder / "trials" / f"s{number:02d}{number % 2}"
        record = study_files.read_trial(path)
        record.status = "diverged"
        study_files.write_trial(path, record)
    text = build.analyse(folder).answer()
    assert "cannot be fitted to the 12 finished points: some trials share no seed with the others" in text
    assert "Difference in test NLL" in text


def test_the_surface_is_a_file_too(valley, tmp_path, monkeypatch):
    """The same bytes each time, and wider where there are surfaces of two scores (here all accuracies are the same)."""
    monkeypatch.setattr(build, "analyse", lambda folder, labels: valley)
    said = build.build(valley.study.folder, tmp_path / "built", formats=("png",))
    assert "surface.png, surface.pdf" in said
    (tmp_path / "drawn").mkdir()
    drawn = [path for finding in valley.findings if finding.draw for path in finding.draw(tmp_path / "drawn")]
    assert [path.name for path in drawn] == ["surface.png", "surface.pdf"]
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "built" / path.name).read_bytes(), path.name
    picture, document = (path.read_bytes() for path in drawn)
    assert picture[:4] == b"\x89PNG"
    assert document[:4] == b"%PDF"
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert width / height < 1.5


def test_the_front_counts_settings_not_trials(tmp_path):
    folder = make(tmp_path, NLL, searched=SEARCHED, objectives=["nll", "ece"])
    items = study_files.read_assignments(folder)
    for number, (nll, ece) in enumerate([(0.5, 0.1), (0.6, 0.05), (0.7, 0.2)]):
        for place, seed in enumerate((0, 10_001)):
            trial = f"s{number}{place}"
            write(folder, trial, nll, 0.9, 0, seed, alpha=float(number + 1))
            record = study_files.read_trial(folder / "trials" / trial)
            record.validation["pair"]["ece"] = ece + (0.01 if place else -0.01)
            study_files.write_trial(folder / "trials" / trial, record)
            items.append(Assignment("searched", "search", seed, trial))
    study_files.write_assignments(folder, items)
    assert "On the Pareto front of validation NLL and ECE lie 2 of 3 searched settings" in build.analyse(folder).answer()


def test_growth_is_in_the_answer(tmp_path):
    folder = make(tmp_path, NLL)
    text = "".join(f"{json.dumps(line)}\n" for line in SCALING)
    checked_files.write_atomically(folder / "scaling.jsonl", text)
    made = build.analyse(folder)
    assert "feature KL grows as B^2.00" in made.answer()
    assert "ViT-Huge/14" in made.answer()
    body = next(finding.body() for finding in made.findings if finding.title == "Growth with size")
    assert body.count("<svg") == 2
    assert f"{SCALING[0]['weights']:,}" in body


def test_a_plain_study_adds_nothing(tmp_path):
    made = build.analyse(make(tmp_path, NLL, settings=SETTINGS))
    assert made.findings == []
    assert "**The balance**" not in made.answer()


def test_a_point_without_a_finished_trial_is_none_of_the_surface(tmp_path):
    made = build.analyse(balance(tmp_path, lambda a, b: 0.5, points=7, statuses=("stopped", "stopped")))
    assert "needs at least 6 finished points, there are 3" in made.answer()
