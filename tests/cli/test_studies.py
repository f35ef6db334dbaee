"""Every study, from its command line to its report, at the size of a second a trial, in this process. Each is trained once."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analysis.build import FORMATS, build
from analysis.records.load import load
from mldiv import presets
from mldiv.cli.main import main
from mldiv.records.contents import COSTS
from mldiv.records.study_files import read_study, read_trial
from mldiv.training import step_cost

TINY = {
    "train_size": 64, "test_size": 40, "validation_size": 40, "width": 0.125, "epochs": 3, "switch_epoch": 1,
    "pretrain_epochs": 1, "batch_size": 16, "validation_samples": 1, "test_samples": 2, "fusion_dim": 16, "scale_batches": 1,
}  # fmt: skip

#: What a study is run with besides, where it is unlike the others; of many arms, those that differ in kind. The plan of all is
#: made in test_designs.py.
FLAGS = {
    "joint_search": ["--trials", "1"],
    "kernel_sweep": ["--trials", "1"],
    "budget": ["--set", "epochs=6", "--set", "switch_epoch=4"],
    "weight_balance": ["--trials", "6"],
    "one network": ["--set", "peers=1", "--arm", "single BNN", "--trials", "0"],
    "four networks": ["--set", "peers=4", "--arm", "single BNN", "--arm", "with both", "--trials", "0"],
    "two objectives": ["--arch", "vit", "--select", "validation_nll_and_ece", "--trials", "3"],
}
#: Which study the others are of.
OF_STUDY = {"one network": "ablation", "four networks": "ablation", "two objectives": "joint_search"}
ARMS = {
    "scaling": [f"{method}, {size}" for size in ("as it is", "vit") for method in ("mutual learning", "both terms")],
    "initialization": [
        f"{start}{diversity}"
        for start in ("scratch + pretrained", "both pretrained, one seed")
        for diversity in ("", ", no diversity")
    ],
    "budget": [f"{method}, {size}" for size in ("as it is", "epochs / 2") for method in ("mutual learning", "with both")],
    "kernel_sweep": ["cosine", "polynomial"],
    "stage_switch": ["at once", "after 1/3", "after 1/3, without the terms"],
    "teaching": ["never", "weight 0.3, T 4"],
    "repulsion": ["never met", "both terms, 0.05", "no prior in stage two", "both terms, 0.05, no prior in stage two"],
    "recipe": ["adamw, lr 0.003", "rho_lr_scale 100", "schedule step"],
    "diversity_form": [
        "no diversity",
        "feature: -KL",
        "parameter: symmetric KL",
        "parameter: aligned by weights, by layer",
        "fusion: frozen",
    ],
}
#: Studies of the everyday run: a search over everything; what others add to the page is in tests/analysis.
TELLING = ("joint_search",)
#: Studies that compare arms alone, of which one seed is enough: a repeat adds what every study does with it.
ONE_SEED = (
    "diversity_form", "initialization", "kernel_sweep", "recipe", "repulsion", "scaling", "stage_switch", "teaching",
)  # fmt: skip
#: Studies whose pictures are drawn as files too: each kind of picture has tests in tests/analysis.
PICTURES = (*TELLING, "weight_balance")
NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "studies").glob("*.py"))
every_study = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in TELLING else pytest.mark.slow) for name in NAMES]
)


@dataclass(frozen=True)
class Ended:
    """A study that was run to its end: where it lies, what it said, and a function that runs it again with further flags."""

    folder: Path
    out: str
    err: str
    again: callable


@pytest.fixture(scope="module")
def ended(load_study, tmp_path_factory):
    """A function that runs a study by its name, once."""
    place, found = tmp_path_factory.mktemp("studies"), {}

    def run(name, *further):
        study = load_study(OF_STUDY.get(name, name))
        argv = ["--preset", "demo", "--in-process", "--out", str(place / name), "--cache", str(place / f"store of {name}")]
        argv += FLAGS.get(name, ["--trials", "0"]) + [flag for arm in ARMS.get(name, []) for flag in ("--arm", arm)]
        argv += [] if name in TELLING else ["--ood", "none"]  # what they add is the same in every study
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            demo, seeds = presets.PRESETS["demo"], 1 if name in ONE_SEED else 2
            tiny = replace(demo, settings=demo.settings | TINY, samples=1, seeds=seeds, cut={})
            patch.setitem(presets.PRESETS, "demo", tiny)
            patch.setattr(step_cost, "ROUNDS", 1)
            written = build if name in PICTURES else partial(build, formats=[kind for kind in FORMATS if kind != "png"])
            assert main(study, written, [*argv, *further]) == 0, err.getvalue()
        return out.getvalue(), err.getvalue()

    def once(name):
        if name not in found:
            found[name] = Ended(place / name, *run(name), lambda *further: run(name, *further))
        return found[name]

    return once


@every_study
def test_a_study_trains_all_its_trials(ended, name):
    end = ended(name)
    study = load(end.folder)
    assert not study.problems
    assert not study.missing()
    found = [read_trial(path.parent) for path in end.folder.glob("trials/*/trial.json")]
    trained, shared, pretraining = (sum(record.cost[cost] for record in found) for cost in COSTS)
    assert trained + shared == sum(record.config["epochs"] for record in found)
    assert f"{trained} trained, {shared} shared (from " in end.err
    assert f"); {pretraining} epochs of pretraining\n" in end.err


@every_study
def test_a_study_ends_in_a_table_and_an_answer(ended, name):
    end = ended(name)
    header = read_study(end.folder)
    assert header.question in end.out.replace("\n", " ")
    assert len(end.out.splitlines()) <= 21 and "report.html" in end.out
    table, answer = ((end.folder / file).read_text() for file in ("table.md", "answer.md"))
    for arm in header.arms:
        assert f"| {arm}" in table
    for arm in header.compare:
        assert f"| {arm} " in answer
    for contrast in header.contrasts:
        assert f"| {contrast} " in answer


@every_study
def test_a_study_ends_in_a_report(ended, name):
    end = ended(name)
    report = (end.folder / "report.html").read_text()
    assert report.index("Answer") < report.index("Scores") < report.index("Configuration")
    assert name not in PICTURES or (end.folder / "reliability.png").stat().st_size > 10_000
    special = {"weight_balance": "Response surface", "scaling": "Growth with size", "budget": "Effects against size"}
    for study, section in special.items():
        assert (section in report) == (study == name), section


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("weight_balance", "**The balance**"), ("scaling", "**Cost.**"), ("budget", "**Growth with images seen by a peer**")],
)
def test_what_only_some_studies_answer(ended, name, said):
    assert said in (ended(name).folder / "answer.md").read_text()


@every_study
def test_the_same_folder_is_taken_up_again(ended, name):
    out, _ = ended(name).again("--dry-run")
    assert "\n  0 epochs asked for: 0 shared, 0 to train\n" in out


def test_again_it_trains_nothing_and_says_the_same(ended):
    end = ended("joint_search")
    kinds = (".md", ".csv", ".tex", ".html", ".png")
    first = {path.name: path.read_bytes() for path in end.folder.iterdir() if path.suffix in kinds}
    _, err = end.again()
    assert "all trials are recorded" in err
    for name, content in first.items():
        assert (end.folder / name).read_bytes() == content, name


@pytest.mark.slow
def test_a_vit_and_two_objectives(ended):
    folder = ended("two objectives").folder
    assert load(folder).header.settings["arch"] == "vit"
    assert "Pareto front" in (folder / "report.html").read_text()
    assert "On the Pareto front of validation NLL and ECE lie" in (folder / "answer.md").read_text()


@pytest.mark.slow
def test_arms_of_one_seed_start_alike(ended):
    """Common random numbers: before any diversity term acts, all arms of a seed have the same epochs."""
    study = load(ended("ablation").folder)
    arms = [arm for arm in study.arms if "BNN" not in arm and "deterministic" not in arm]
    first = {arm: study.curve(study.records[arm, 1].id).values["nll"][0] for arm in arms}
    assert len(set(first.values())) == 1, first
    assert study.records["single BNN", 1].id == study.records["two single BNNs", 1].id


@pytest.mark.parametrize(("name", "peers"), [("one network", 1), pytest.param("four networks", 4, marks=pytest.mark.slow)])
def test_any_number_of_networks_from_the_command_line_to_the_page(ended, name, peers):
    """Scores of every network and of all together; of one alone nothing is said that takes two."""
    end = ended(name)
    study = load(end.folder)
    assert not study.problems and not study.missing()
    record = study.records["with both" if peers > 1 else "single BNN", 1]
    assert list(record.test) == [*(f"peer_{number}" for number in range(1, peers + 1)), "pair"]
    values = study.curve(record.id).values
    assert all((np.isfinite(values[name]).all()) == (peers > 1) for name in ("disagreement", "w2_per_weight", "feature_kl"))
    assert study.curve(record.id).switch == 1
    table, report = ((end.folder / file).read_text() for file in ("table.md", "report.html"))
    for title in ("Disagreement", "W2² per weight", "cosine of means", "feature KL"):
        assert (title in table) == (peers > 1), title
    assert "A peer's NLL" in table and "mean of all" in table
    assert ("No arm has more than one network" in report) == (peers == 1)
    assert "nan" not in table
