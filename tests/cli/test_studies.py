"""Every study, from its command line to its report, at the size of a second a trial, in this process."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.build import build
from analysis.load import load
from mldiv import presets, scaling
from mldiv.records import read_json

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "studies").glob("*.py"))

TINY = {
    "train_size": 128, "test_size": 40, "validation_size": 40, "width": 0.25, "epochs": 3, "switch_epoch": 1,
    "pretrain_epochs": 1, "batch_size": 32, "validation_samples": 1, "test_samples": 2, "fusion_dim": 16, "scale_batches": 1,
}  # fmt: skip


@pytest.fixture
def tiny_demo(monkeypatch):
    demo = presets.PRESETS["demo"]
    monkeypatch.setitem(presets.PRESETS, "demo", replace(demo, settings=demo.settings | TINY, samples=1, seeds=2, cut={}))
    monkeypatch.setattr(scaling, "ROUNDS", 1)


#: Of the studies with many arms, those that are unlike the others; the plan of all is made in test_study.py.
SOME_ARMS = {
    "recipe": ["adamw, lr 0.003", "rho_lr_scale 100", "schedule step"],
    "diversity_form": [
        "no diversity",
        "feature: -KL, sum",
        "parameter: symmetric KL, exp, at switch",
        "feature: fusion frozen",
    ],
}


def run(name, folder, *flags):
    study = runpy.run_path(str(ROOT / "studies" / f"{name}.py"))["STUDY"]
    samples = ("--samples", "8") if name == "weight_balance" else ("--samples", "1")
    argv = ["--preset", "demo", "--in-process", "--out", str(folder / name), "--store", str(folder / "store"), *samples, *flags]
    argv += [flag for arm in SOME_ARMS.get(name, []) for flag in ("--arm", arm)]
    assert study.main(build, argv) == 0
    return folder / name


@pytest.mark.parametrize("name", NAMES)
def test_a_study_ends_in_table_answer_and_report(name, tiny_demo, tmp_path, capsys):
    folder = run(name, tmp_path)
    out, err = capsys.readouterr()
    study = load(folder)
    assert not study.problems and not study.missing() and "epochs of pretraining" in err
    header = read_json(folder / "study.json")
    assert f"# {header['question']}" in out and "In " in out
    for arm in header["arms"]:
        assert f"| {arm}" in (folder / "table.md").read_text()
    answer = (folder / "answer.md").read_text()
    for arm in header["compare"]:
        assert f"- {arm}: " in answer
    for contrast in header["contrasts"]:
        assert f"- {contrast}: " in answer
    report = (folder / "report.html").read_text()
    assert report.index("Answer") < report.index("Table") < report.index("Configuration")
    assert (folder / "reliability.png").stat().st_size > 10_000
    run(name, tmp_path, "--dry-run")  # the same folder is taken up again
    assert "\n  0 epochs asked for: 0 shared, 0 to train\n" in capsys.readouterr().out
    special = {"weight_balance": "Response surface", "scaling": "Growth with size"}.get(name)
    assert special is None or (special in report and ("**The balance**" in answer or "**Cost.**" in answer))


def test_again_it_trains_nothing_and_says_the_same(tiny_demo, tmp_path, capsys):
    folder = run("joint_search", tmp_path)
    kinds = (".md", ".csv", ".tex", ".html", ".png")
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in kinds}
    capsys.readouterr()
    run("joint_search", tmp_path)
    assert "all trials are recorded" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in first} == first


def test_a_vit_and_two_objectives(tiny_demo, tmp_path):
    flags = ("--arch", "vit", "--select", "validation_nll_and_ece", "--samples", "4")
    folder = run("joint_search", tmp_path, *flags)
    assert load(folder).header["settings"]["arch"] == "vit"
    assert "Pareto front" in (folder / "report.html").read_text()
    assert "On the Pareto front of validation NLL and ECE lie" in (folder / "answer.md").read_text()


def test_arms_of_one_seed_start_alike(tiny_demo, tmp_path):
    """Common random numbers: before any diversity term acts, all arms of a seed have the same epochs."""
    study = load(run("ablation", tmp_path))
    arms = [arm for arm in study.arms if "BNN" not in arm]
    first = {arm: study.curve(study.records[arm, 1].id).values["nll"][0] for arm in arms}
    assert len(set(first.values())) == 1, first
    assert study.records["single BNN", 1].id == study.records["two single BNNs", 1].id
