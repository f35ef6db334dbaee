"""A kernel's own parameters are settings: refused, searched, and known in records."""

import dataclasses
from dataclasses import replace

import optuna
import pytest
import torch
from helpers.plugins import EXAMPLE, FLAGS, STUDY

from analysis.build import build
from analysis.records.consistency import why_not
from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cli.run import prepare
from mldiv.config import ConfigError, TrialConfig, from_dict
from mldiv.method.kernels import KERNELS
from mldiv.plugins.loading import find, load
from mldiv.records.contents import Assignment, TrialRecord
from mldiv.study import STUDIES
from mldiv.sweep.arm import make_arm
from mldiv.sweep.search_space import KERNELS_OWN, suggest


@pytest.fixture
def cauchy():
    """A configuration with the example's kernel, whose `kernel_tail` lies between 0.1 and 10."""
    load([find(str(EXAMPLE / "cauchy.py"))])
    return TrialConfig(kernel="cauchy", epochs=12, switch_epoch=8)


def test_a_parameter_of_a_plugins_kernel_is_a_setting(cauchy):
    assert cauchy.kernel_options == {"width": 1.0, "tail": 1.0} and cauchy.kernel_tail == 1
    assert cauchy.replace(kernel_tail=1) == cauchy  # at its default no identity knows of it
    heavy = cauchy.replace(kernel_tail=0.5, alpha=0.3)
    assert heavy.kernel_options == {"width": 1.0, "tail": 0.5} and heavy.kernel_tail == 0.5
    assert heavy.id != cauchy.replace(alpha=0.3).id
    assert from_dict(dataclasses.asdict(heavy)) == heavy == TrialConfig(**dataclasses.asdict(heavy))
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(KERNELS["cauchy"](rows, rows, tail=0.5).square(), KERNELS["cauchy"](rows, rows))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel_tail": 11}, "kernel_tail = 11: must be at most 10"),
        ({"kernel_tail": 0.01}, "kernel_tail = 0.01: must be at least 0.1"),
        ({"kernel_tail": "much"}, "kernel_tail = 'much': expected float"),
        ({"kernel_tial": 2.0}, "no setting is called 'kernel_tial'; did you mean 'kernel_tail'?"),
        ({"kernel_own": "tail"}, "kernel_own = 'tail': expected parameters with numbers"),
        ({"kernel_own": "head=2"}, "no kernel here has a parameter 'head'"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(cauchy, changes, said):
    with pytest.raises(ConfigError) as refused:
        cauchy.replace(**changes)
    assert said in str(refused.value)


def test_a_parameter_of_a_kernel_that_no_arm_has_is_refused(capsys):
    only = replace(STUDY, arms={"rbf": {"kernel": "rbf"}, "cosine": {}})
    assert main(only, build, [*FLAGS, "--set=kernel_tail=2", "--dry-run"]) == 2
    assert "--set kernel_tail=2: a parameter of cauchy, a kernel that no arm of this study has" in capsys.readouterr().err
    assert main(STUDY, build, [*FLAGS, "--set=kernel_tail=2", "--dry-run"]) == 0


def test_a_parameter_is_searched_where_its_kernel_is_the_arms(cauchy):
    searched = ("kernel", KERNELS_OWN)
    arms = {name: make_arm(name, cauchy, {"kernel": name}, searched) for name in ("cauchy", "rbf", "cosine")}
    assert [arm.searched for arm in arms.values()] == [("kernel_width", "kernel_tail"), ("kernel_width",), ()]
    study, drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), set()
    for _ in range(20):
        config = suggest(study.ask(), cauchy, arms["cauchy"].searched, arms["cauchy"].ranges)
        assert 0.5 <= config.kernel_tail <= 4
        drawn.add(config.id)
    assert len(drawn) == 20


def test_the_trials_of_a_plugins_kernel_are_known_as_their_arms(capsys):
    """Whose parameters a record holds in one text, and compile by its older name; another value is another trial."""
    load([find(str(EXAMPLE / name)) for name in ("cauchy.py", "question.py")])
    study = replace(STUDIES["tails"], arms={**STUDIES["tails"].arms, "fast": {"compile": "on"}, "any": {"compile": "auto"}})
    run = prepare(study, parse_flags(study, [*FLAGS, "--trials", "1", "--dry-run"]))
    header = replace(run.header, chosen={"cauchy": {"kernel_tail": 2.0}})
    assert header.kernel_defaults == {"kernel_tail": 1.0} == header.parameters
    for arm, changes in header.changes.items():
        for phase, more in (
            ("repeat", header.chosen.get(arm, {})),
            ("search", {"kernel_tail": 0.7} if arm == "cauchy" else {}),
        ):
            config = run.base.replace(seed=1, **changes).replace(**more)
            item, record = (Assignment(arm, phase, 1, config.id), TrialRecord(config.id, dataclasses.asdict(config)))
            assert why_not(header, item, record) is None, (arm, phase)
    for arm, tail, said in (
        ("heavier", 0.6, "0.6 in place of 0.5"),
        ("cauchy", 1.0, "1.0 in place of 2.0"),
        ("rbf", 3.0, "3.0"),
    ):
        config = run.base.replace(seed=1, **header.changes[arm]).replace(kernel_tail=tail)
        item, record = Assignment(arm, "repeat", 1, config.id), TrialRecord(config.id, dataclasses.asdict(config))
        assert f"kernel_tail = {said}" in why_not(header, item, record)
    everywhere = replace(header, settings=header.settings | {"kernel_own": "tail=3.0"}, chosen={}, samples=0)
    for arm, tail, known in (("cauchy", 3.0, True), ("cauchy", 1.0, False), ("heavier", 0.5, True), ("heavier", 3.0, False)):
        config = run.base.replace(seed=1, **header.changes[arm]).replace(kernel_tail=tail)
        for of in (everywhere, replace(everywhere, kernel_defaults={})):  # as a study of before had none
            said = why_not(of, Assignment(arm, "repeat", 1, config.id), TrialRecord(config.id, dataclasses.asdict(config)))
            assert (said is None) == known, (arm, tail, said)
    config = run.base.replace(seed=1, compile="off")
    record = TrialRecord(config.id, dataclasses.asdict(config))
    assert "compile = 'off' in place of 'on'" in why_not(header, Assignment("fast", "repeat", 1, config.id), record)
