"""What the studies compare: arms that are what their names say, each study with a plan."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.command import prepared, run

from mldiv.cli.run import choose_arms, make_arms
from mldiv.method.kernels import KERNELS
from mldiv.method.networks import build
from mldiv.presets import configure
from mldiv.settings.setting import ConfigError


def test_some_arms_alone(load_study, capsys, tmp_path):
    study = load_study("ablation")
    code, out, _ = run(study, capsys, "--arm", "with both", "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0
    assert "mutual learning: " in out and "with both: " in out
    assert "single" not in out
    header = prepared(study, "--arm", "with both").header
    assert header.arms == ["mutual learning", "with both"] and header.compare == ["with both"] and not header.contrasts
    whole = [flag for arm in prepared(study).header.arms[3:] for flag in ("--arm", arm)]
    assert len(prepared(study, *whole).header.contrasts) == 5
    assert len(prepared(study, *whole[:6]).header.contrasts) == 4  # the two terms' and both's, without deterministic twins
    named = prepared(load_study("initialization"), "--arm", "both scratch, no diversity").header
    assert named.compare == ["both scratch, no diversity"]
    sizes = [flag for size in ("as it is", "epochs / 4") for flag in ("--arm", f"with both, {size}")]
    assert prepared(load_study("budget"), *sizes).header.compare == ["with both, as it is"]
    code, _, err = run(study, capsys, "--arm", "with bot")
    assert code == 2
    assert "did you mean 'with both'?" in err[0]


def test_a_network_whose_recipe_is_an_arm_s_change_has_that_arm_once(load_study):
    """The study of recipes refused a ViT: its own recipe is AdamW at 0.003, as one of the arms."""
    arms = prepared(load_study("recipe"), "--preset", "demo", "--arch", "vit").header.arms
    assert "adamw, lr 0.001" in arms and "adamw, lr 0.003" not in arms


def test_sizes_that_cannot_be_are_refused_before_any_work(load_study):
    """They were made once Ray had started; of wide networks the study of scaling times the widths that there are."""
    study = load_study("scaling")
    base = prepared(study, "--preset", "demo", "--width", "8").base
    assert max(size.width for size in study.sizes(base)) == 64
    with pytest.raises(ConfigError, match="width = 800"):
        prepared(replace(study, sizes=lambda base: [base.replace(width=800.0)]), "--preset", "demo")


NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "studies").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_a_plan(load_study, name, capsys, tmp_path):
    study = load_study(name)
    code, out, _ = run(study, capsys, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 0
    assert out.startswith(f"{name}: {study.question}\n")
    for arm in prepared(study).header.arms:
        assert f"\n  {arm}: " in out
    assert ("diversity terms from epoch" in out) != (name in ("recipe", "teaching"))


@pytest.mark.parametrize(
    "name", ["joint_search", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "joint_search")]
)
def test_every_study_can_be_judged_by_two_objectives(load_study, name, capsys, tmp_path):
    rule = "validation_nll_and_ece"
    code, out, _ = run(load_study(name), capsys, "--dry-run", "--out", str(tmp_path / "x"), "--select", rule)
    assert code == 0
    assert load_study(name).baseline in out


@pytest.mark.parametrize("name", NAMES)
def test_what_a_study_compares_are_arms_of_its_own(load_study, name):
    """Its baseline, what is compared with it, and its contrasts, each of which is a difference: its weights sum to 0."""
    study = load_study(name)
    header = prepared(study).header
    assert {study.baseline, *header.compare, *study.members} <= set(header.arms)
    assert study.baseline not in header.compare
    for contrast, weights in header.contrasts.items():
        assert set(weights) <= set(header.arms), contrast
        assert sum(weights.values()) == pytest.approx(0, abs=1e-12), contrast  # thirds do not add up to the bit
        assert sum(weight for weight in weights.values() if weight > 0) > 0, contrast


def test_the_arms_are_what_their_names_say(load_study):
    def made(name, preset="demo", **settings):
        study, base = load_study(name), configure(preset, settings)
        return {arm.name: arm.config for arm in make_arms(study, base, choose_arms(study, (), base))}

    arms = made("ablation", "paper")
    acting = {name: (config.mutual_weight > 0, config.alpha > 0, config.beta > 0) for name, config in arms.items()}
    bayesian = {
        "single BNN": (False, False, False), "two single BNNs": (False, False, False),
        "mutual learning": (True, False, False), "with parameter diversity": (True, True, False),
        "with feature diversity": (True, False, True), "with both": (True, True, True),
    }  # fmt: skip
    twins = {"two deterministic networks": (False, False, False), "deterministic mutual learning": (True, False, False)}
    dear = {
        "one deterministic network, twice the arithmetic": (False, False, False),
        "one deterministic network, taught by a finished one": (True, False, False),
        "eight deterministic networks": (False, False, False),
        "four peers, with both": (True, True, True),
    }  # fmt: skip
    assert acting == bayesian | twins | dear
    assert {name for name, config in arms.items() if not config.bayesian} == set(acting) - set(bayesian) - {
        "four peers, with both"
    }
    assert [config.peers for config in arms.values()] == [2] * 8 + [1, 8, 1, 4]
    wide, taught, *_ = dear
    assert [name for name, config in arms.items() if config.teacher == "pretrained"] == [taught]
    assert set(made("ablation")) == set(bayesian | twins)
    assert set(made("ablation", "paper", arch="resnet18")) == set(acting) - {wide}
    assert set(made("ablation", "paper", data="cifar10")) == set(acting)
    switches = {name: config.switch_epoch for name, config in made("stage_switch").items()}
    shares = {"at once": 0, "after 1/6": 2, "after 1/3": 4, "after 1/2": 6, "after 2/3": 8, "after 5/6": 10}
    twins = {f"{name}, without the terms": epoch for name, epoch in shares.items() if epoch}
    assert switches == {"never": 12} | shares | twins
    kernels = made("kernel_sweep")
    assert {name for name, config in kernels.items() if config.kernel == name and config.diverse} == set(KERNELS)
    assert not kernels["mutual learning"].diverse


def multiply_adds(config, classes, channels, size):
    """Of a network's convolutions and linear layers, for one image."""
    module = build(config.arch, classes=classes, channels=channels, width=config.width, seed=0, image_size=size).eval()
    found = []

    def count(layer, inputs, output):
        places = output[0, 0].numel() if output.dim() == 4 else 1
        found.append(layer.weight.numel() * places)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    module(torch.zeros(1, channels, size, size))
    return sum(found)


@pytest.mark.parametrize("preset", ["quick", "small", "paper"])
def test_the_wider_network_takes_the_arithmetic_of_two(load_study, preset):
    study, base = load_study("ablation"), configure(preset, {})
    wide = {arm.name: arm.config for arm in make_arms(study, base, choose_arms(study, (), base))}[
        "one deterministic network, twice the arithmetic"
    ]
    shape = (10, 1, 8) if base.data == "digits" else (10, 3, 32)
    assert multiply_adds(wide, *shape) / multiply_adds(base, *shape) == pytest.approx(2, rel=0.05)
