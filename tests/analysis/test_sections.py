"""What a study's own question adds: the sentence in the answer is that of the records."""

import numpy as np
import pytest
from helpers.synthetic_records import SETTINGS, make, write

from analysis import build
from mldiv import records
from mldiv.records import Assignment

NLL = {"mutual learning": [0.5, 0.6], "searched": [0.45, 0.56]}
SEARCHED = {"mutual learning": [], "searched": ["alpha", "beta"]}


def balance(folder, value, points=24, seeds=(0, 10_001)):
    """A search over alpha and beta whose NLL is ``value(log10 alpha, log10 beta)``, seeds at levels of their own."""
    make(folder, NLL, searched=SEARCHED, surface={"alpha": [0.01, 10.0], "beta": [0.02, 20.0]}, search_seeds=list(seeds))
    items, draws = records.read_assignments(folder), np.random.default_rng(1)
    for number in range(points):
        a, b = draws.uniform(-2, 1), draws.uniform(-1.7, 1.3)
        for place, seed in enumerate(seeds):
            trial, noise = f"s{number:02d}{place}", 0.0005 * draws.standard_normal()
            write(folder, trial, value(a, b) + 0.1 * place + noise, 0.9, 0, seed, alpha=10**a, beta=10**b)
            record = records.read_trial(folder / "trials" / trial)
            record.config["seed"] = seed
            records.write_trial(folder / "trials" / trial, record)
            items.append(Assignment("searched", "search", seed, trial))
    records.write_assignments(folder, items)
    return build.analyse(folder)


def test_a_planted_optimum_is_in_the_answer(tmp_path):
    """The valley's floor is at alpha 0.1, beta 10, far from the paper's weights."""
    made = balance(tmp_path, lambda a, b: 0.5 + 0.02 * (a + 1) ** 2 + 0.02 * (b - 1) ** 2)
    sentence = next(line for line in made.answer().splitlines() if line.startswith("**The balance**"))
    assert "outside that region" in sentence and "do not locate" not in sentence
    low, high = (float(part) for part in sentence.split("alpha in [")[1].split("]")[0].split(","))
    assert low <= 0.1 <= high and high < 1
    low, high = (float(part) for part in sentence.split("beta in [")[1].split("]")[0].split(","))
    assert low <= 10 <= high and low > 2


def test_a_flat_surface_locates_nothing(tmp_path):
    made = balance(tmp_path, lambda a, b: 0.5)
    assert "the data do not locate an optimum: the surface cannot be told from a flat one" in made.answer()


def test_too_few_points_are_said(tmp_path):
    made = balance(tmp_path / "study", lambda a, b: 0.5, points=3)
    assert "needs at least 6 finished points, there are 3" in made.answer()
    build.build(tmp_path / "study", tmp_path / "out", formats=("png",))
    assert not list((tmp_path / "out").glob("surface.*"))


def test_the_surface_is_a_file_too(tmp_path):
    """The same bytes each time, and wider where there are surfaces of two scores (here all accuracies are the same)."""
    balance(tmp_path / "study", lambda a, b: 0.5 + 0.02 * (a + 1) ** 2)
    for name in ("one", "two"):
        said = build.build(tmp_path / "study", tmp_path / name, formats=("png",))
        assert "surface.png, surface.pdf" in said
    pictures = [(tmp_path / name / f"surface.{kind}").read_bytes() for name in ("one", "two") for kind in ("png", "pdf")]
    assert pictures[:2] == pictures[2:] and pictures[0][:4] == b"\x89PNG" and pictures[1][:4] == b"%PDF"
    width, height = (int.from_bytes(pictures[0][at : at + 4], "big") for at in (16, 20))
    assert width / height < 1.5


def test_the_front_counts_settings_not_trials(tmp_path):
    folder = make(tmp_path, NLL, searched=SEARCHED, objectives=["nll", "ece"])
    items = records.read_assignments(folder)
    for number, (nll, ece) in enumerate([(0.5, 0.1), (0.6, 0.05), (0.7, 0.2)]):
        for place, seed in enumerate((0, 10_001)):
            trial = f"s{number}{place}"
            write(folder, trial, nll, 0.9, 0, seed, alpha=float(number + 1))
            record = records.read_trial(folder / "trials" / trial)
            record.validation["pair"]["ece"] = ece + (0.01 if place else -0.01)
            records.write_trial(folder / "trials" / trial, record)
            items.append(Assignment("searched", "search", seed, trial))
    records.write_assignments(folder, items)
    assert "On the Pareto front of validation NLL and ECE lie 2 of 3 searched settings" in build.analyse(folder).answer()


def test_growth_is_in_the_answer(tmp_path):
    from test_growth import LINES

    folder = make(tmp_path, NLL)
    text = "".join(f"{records.json.dumps(line)}\n" for line in LINES)
    records.write_atomically(folder / "scaling.jsonl", text)
    made = build.analyse(folder)
    assert "feature KL grows as B^2.00" in made.answer() and "ViT-Huge/14" in made.answer()
    body = next(one.section.body for one in made.findings if one.section.title == "Growth with size")
    assert body.count("<svg") == 2 and f"{LINES[0]['weights']:,}" in body


def test_a_plain_study_adds_nothing(tmp_path):
    made = build.analyse(make(tmp_path, NLL, settings=SETTINGS))
    assert made.findings == [] and "**The balance**" not in made.answer()


@pytest.mark.parametrize("statuses", [("diverged", "finished"), ("stopped", "stopped")])
def test_only_finished_trials_make_the_surface(tmp_path, statuses):
    made = balance(tmp_path, lambda a, b: 0.5, points=7)
    for number in range(4):
        for place, status in enumerate(statuses):
            trial = f"s{number:02d}{place}"
            old = records.read_trial(tmp_path / "trials" / trial).config
            write(tmp_path, trial, 0.5, 0.9, 0, old["seed"], status=status, alpha=old["alpha"], beta=old["beta"])
    again = build.analyse(tmp_path)
    left = 3 if statuses == ("stopped", "stopped") else 7
    assert ("there are 3" in again.answer()) == (left == 3) and "**The balance**" in made.answer()
