"""Plug-ins: what the example enters is trained; what is wrong with another is said by name. On Ray: test_worker_groups.py."""

import dataclasses
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from helpers.plugins import forget, forget_all
from helpers.small_study import TINY

from analysis import __main__ as analysis
from analysis.build import build
from analysis.records.consistency import why_not
from mldiv import __main__ as command
from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cli.run import prepare
from mldiv.config import ConfigError, TrialConfig, from_dict
from mldiv.doctor import __main__ as doctor
from mldiv.method.kernels import KERNELS
from mldiv.method.losses import PARAM_DISTANCES
from mldiv.plugins import loading
from mldiv.plugins.contracts import CONTRACTS, faults
from mldiv.plugins.loading import Plugin, PluginError, find, load
from mldiv.records.contents import Assignment, TrialRecord
from mldiv.records.study_files import find_trial, read_assignments, read_study, write_trial
from mldiv.study import STUDIES, Study
from mldiv.sweep.arm import make_arm
from mldiv.sweep.search_space import KERNELS_OWN, suggest
from mldiv.training.first_stage import environment_id

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
STUDY = Study(
    name="own", question="Is the own kernel of use?", scientific="kernel", searched=(), baseline="rbf",
    arms={"rbf": {"kernel": "rbf"}, "cauchy": {"kernel": "cauchy"}},
)  # fmt: skip
FLAGS = [
    "--preset", "demo", "--seeds", "1", "--trials", "0", "--data", "stripes", "--arch", "two_layers",
    "--plugin", str(EXAMPLE / "cauchy.py"), *(f"--set={setting}" for setting in TINY),
]  # fmt: skip


@pytest.fixture(autouse=True)
def forgotten():
    """No test sees another's plug-ins."""
    yield
    forget_all()


@pytest.fixture
def write(tmp_path):
    """A function that writes a plug-in and returns its path."""

    def write(text, name="own"):
        (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path / f"{name}.py")

    return write


def test_the_examples_entries_keep_their_contracts(capsys):
    assert command.main(["check-plugin", str(EXAMPLE / "cauchy.py")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["kernel cauchy: ok", "network two_layers: ok", "data set stripes: ok", "metric top2: ok"]
    assert command.main(["check-plugin", str(EXAMPLE / "column.py")]) == 0
    assert capsys.readouterr().out.splitlines() == ["column top2: ok"]
    assert command.main(["check-plugin", str(EXAMPLE / "cauchy.py")]) == 0
    capsys.readouterr()
    assert command.main(["check-plugin", str(EXAMPLE / "question.py")]) == 0
    assert capsys.readouterr().out.splitlines() == ["study tails: ok"]


def test_placebos_push_as_they_say(capsys):
    """They are no distances, which the contract says; the push away from zero knows no peer."""
    assert command.main(["check-plugin", str(EXAMPLE.parent / "placebo" / "placebo.py")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "distance shuffled: of equal posteriors it is not 0", "distance from_zero: of equal posteriors it is not 0",
        "distance w2_classifier: ok",
        "distance w2_others: its gradient in the means is missing, 0 or not finite, of two posteriors apart",
        "distance from_zero_classifier: of equal posteriors it is not 0",
        "distance from_zero_others: its gradient in the means is missing, 0 or not finite, of two posteriors apart",
        "study placebo: ok", "study placebo_tuned: ok", "study placebo_rates: ok", "study placebo_parts: ok",
        "study placebo_prior: ok", "study placebo_noise: ok", "study placebo_teaching: ok",
    ]  # fmt: skip
    own, peer = torch.randn(300, requires_grad=True), torch.randn(300, requires_grad=True)
    pushes = {name: PARAM_DISTANCES[name].function(own, own.exp(), peer, peer.exp()) for name in ("shuffled", "from_zero")}
    of_zero = torch.autograd.grad(pushes["from_zero"], (own, peer), allow_unused=True)
    assert torch.equal(of_zero[0], 2 * own) and of_zero[1] is None
    moved = peer.roll(101)
    expected = (own - moved).square().sum() + (own.exp() - moved.exp()).square().sum()
    assert torch.allclose(pushes["shuffled"], expected)
    large = [torch.rand(4000, dtype=torch.float64) for _ in range(4)]
    for whole in ("w2", "from_zero"):  # of the weights before the classifier of 100 classes, and its own
        parts = [PARAM_DISTANCES[f"{whole}_{part}"].function(*large) for part in ("others", "classifier")]
        assert torch.allclose(sum(parts), PARAM_DISTANCES[whole].function(*large))
        before = PARAM_DISTANCES[whole].function(*(vector[:700] for vector in large))
        assert torch.allclose(parts[0], before)


OWN = [
    (kind, name)
    for kind, (module, registry) in loading.REGISTRIES.items()
    if kind != "data set"
    for name in getattr(sys.modules[module], registry)
]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_the_packages_own_entries_keep_their_contracts(kind, name):
    assert kind in CONTRACTS
    if (kind, name) in (("network", "resnet18"), ("network", "vit")):
        pytest.skip("of other sizes of images: test_networks.py, test_vit.py")
    if (kind, name) == ("transform", "negative_sqrt"):
        pytest.skip("its slope at 0 is large on purpose")
    assert faults(kind, name) == []


HEAD = "import torch\nfrom typing import Annotated\nfrom mldiv.method.kernels import KERNELS, Range, cosine\n"


def with_parameter(name, default, ends, value):
    return (
        f"def own(a, b, *, {name}: Annotated[float, Range({ends})] = {default}):\n    return {value}\n"
        "KERNELS['own'] = own"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("KERNELS['own'] = lambda a, b: a @ b.T", "not within [0, 1]"),
        ("KERNELS['own'] = lambda a, b: torch.exp(-torch.cdist(a, b).square())", "it is not free of scale"),
        ("KERNELS['own'] = lambda a, b: torch.sigmoid(a.sum(1)[:, None] + 0 * b.sum(1)).round()", "it is not symmetric"),
        ("KERNELS['own'] = lambda a, b, width: a @ b.T", "its parameter width must come by keyword, with a default"),
        ("KERNELS['own'] = lambda a, b: None", "raises AttributeError"),
        ("KERNELS['own'] = lambda a, b: cosine(a, b).detach()", "no gradient reaches the features"),
        (with_parameter("tail", 1.0, "0.1, 2", "cosine(a, b)[None]"), "similarities of 7 images have the shape (1, 7, 7)"),
        (with_parameter("tail", 3.0, "0.1, 2", "cosine(a, b)"), "ConfigError: kernel_tail = 3.0: must be at most 2"),
        (with_parameter("tail", 1.0, "0.1, 2", "cosine(a, b) * tail"), "not within [0, 1], of tail = 2"),
        (with_parameter("width", 1.0, "0.1, 2", "cosine(a, b)"), "'width' has another default or range than that of 'rbf'"),
        (with_parameter("own", 1.0, "0.1, 2", "cosine(a, b)"), "its parameter own cannot be a setting"),
    ],
)
def test_what_a_kernel_does_not_keep_is_said(write, capsys, line, fault):
    assert command.main(["check-plugin", write(HEAD + line)]) == 1
    assert fault in capsys.readouterr().out


def test_a_whole_number_ends_a_range_and_is_given_as_its_kind(write, capsys):
    kernel = with_parameter("tail", 1.0, "0.1, 10", "cosine(a, b) if isinstance(tail, float) else None")
    assert command.main(["check-plugin", write(HEAD + kernel)]) == 0, capsys.readouterr().out


def test_what_the_package_enters_is_not_the_plugins(tmp_path, write):
    """The analysis is imported by the plug-in first, and its registry of columns with it."""
    own = write("from mldiv.evaluation.metrics import METRICS\nfrom analysis.build import analyse\nMETRICS['own'] = len")
    said = subprocess.run([sys.executable, "-m", "mldiv", "check-plugin", own], capture_output=True, text=True, check=False)
    assert [line.split(":")[0] for line in said.stdout.splitlines()] == ["metric own"], said.stderr


@pytest.mark.parametrize("bounded", [False, True])
def test_a_transform_that_misstates_its_push_is_told(write, capsys, bounded):
    head = "import torch\nfrom mldiv.method.losses import TRANSFORMS, Transform\n"
    function = "lambda x: -torch.log1p(x)" if bounded else "lambda x: torch.exp(-x)"
    assert command.main(["check-plugin", write(f"{head}TRANSFORMS['own'] = Transform({function}, bounded={bounded})")]) == 1
    assert f"and it says bounded={bounded}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("(m - pm).detach().square().sum()", "gradient in the means is missing, 0 or not finite"),
        ("((m - pm).square().sum() - 1e9).clamp_min(0) + 0 * m.sum()", "gradient in the means is missing, 0 or not finite"),
        (
            "(m - pm).square().mean()",
            "it is no sum over weights: of the weights twice over it gives 1 times as much, in place of 2",
        ),
        ("((m - pm) / ps).square().sum()", "of networks without noise it gives inf, and it does not say needs_noise=True"),
        (
            "((m - pm).square() + (s - ps).square()).sqrt().sum()",
            "its gradient is not finite where a weight is the same in both",
        ),
    ],
)
def test_a_distance_that_pushes_at_nothing_or_hides_what_it_needs_is_told(write, capsys, function, said):
    text = "from mldiv.method.losses import PARAM_DISTANCES, Distance\n"
    text += f"PARAM_DISTANCES['own'] = Distance(lambda m, s, pm, ps: {function}, symmetric=False)"
    assert command.main(["check-plugin", write(text)]) == 1
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("registry", "kind"), [("PARAM_DISTANCES", "Distance"), ("TRANSFORMS", "Transform")])
def test_a_bare_function_is_told_what_to_enter(write, capsys, registry, kind):
    assert command.main(["check-plugin", write(f"from mldiv.method.losses import {registry}\n{registry}['own'] = max")]) == 1
    assert f"it is a bare function: enter a {kind}(function" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = (", "SyntaxError"),
        ("import math\n\ndef at():\n    math.none()\n\nat()", "AttributeError: module 'math' has no attribute 'none' (line 4)"),
        ("import sys\n\nsys.exit('no licence')", "SystemExit: no licence (line 3)"),
        (HEAD + "KERNELS['new'] = KERNELS['rbf'] = max", "replaces the kernel 'rbf', which is there"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_and_leaves_nothing(write, capsys, text, said):
    path, before = write(text), dict(KERNELS)
    assert main(STUDY, build, [*FLAGS, "--plugin", path, "--dry-run"]) == 2
    assert f"own: plug-in {path}: " in (err := capsys.readouterr().err) and said in err
    assert {name: value for name, value in KERNELS.items() if name != "cauchy"} == before


def test_a_file_travels_by_its_text_and_runs_once(write, tmp_path):
    plugin = find(write(HEAD + "KERNELS['own'] = lambda a, b: a"))
    (tmp_path / "own.py").unlink()
    load([plugin, plugin])
    assert loading.hashes() == {"own": plugin.hash} and loading.entered("own") == {"kernel": ["own"]}
    with pytest.raises(PluginError, match="another one of this name is loaded"):
        load([Plugin("own", "0" * 12, "")])


def test_copied_trials_of_another_version_are_refused(write, tmp_path, capsys):
    """Of the arms that use what it enters; a trial's name has the kernel's, not its formula."""
    flags = [*FLAGS, "--plugin", write(HEAD + "KERNELS['own'] = cosine"), "--out", str(tmp_path / "out"), "--dry-run"]
    loading.load_named(parse_flags(STUDY, flags).plugin)
    config = dataclasses.asdict(prepare(STUDY, parse_flags(STUDY, flags)).base)
    for kernel, code in (("own", 2), ("rbf", 0)):
        plugins = {"plugins": {"own": "0" * 12}}
        record = TrialRecord("a", config | {"kernel": kernel}, status="finished", environment=plugins)
        write_trial(tmp_path / "out" / "trials" / "a", record)
        assert main(STUDY, build, flags) == code
    assert "1 trials with what another version of the plug-in own enters: remove" in capsys.readouterr().err


def test_a_module_that_is_another_one_here_is_refused(write, tmp_path, monkeypatch):
    write("x = 1", "some_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("some_module").text is None
    with pytest.raises(PluginError, match="is not the one of the study"):
        load([Plugin("some_module", "0" * 12)])
    with pytest.raises(PluginError, match="no module of this name can be imported here"):
        find("no_such_module.at_all")


def test_first_stages_are_shared_between_the_same_plugins_only(tiny_data, write):
    cpu, found = torch.device("cpu"), []
    for text in ("", "print()", "print(1)"):
        if text:
            load([find(write(text))])
        found.append(environment_id(tiny_data, cpu))
        forget("own")
    assert len(set(found)) == 3
    assert environment_id(tiny_data, cpu) == found[0]


STUDIED = "from mldiv.study import STUDIES, Study\nSTUDIES['own'] = Study(name='own', question='?', scientific='x', "


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("arms={'a': {}}, searched=(), baseline='b')", "baseline names 'b', which is no arm"),
        ("arms={'a': {'kernl': 'rbf'}}, searched=(), baseline='a')", "arm 'a': no setting is called 'kernl'"),
        ("arms={'a': {}}, searched=('peers',), baseline='a')", "it searches 'peers', which is no setting with a range"),
    ],
)
def test_what_a_study_does_not_keep_is_said(write, capsys, rest, fault):
    assert command.main(["check-plugin", write(STUDIED + rest)]) == 1
    assert fault in capsys.readouterr().out


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


def test_a_plugins_study_is_run_by_its_name(capsys):
    load([find(str(EXAMPLE / name)) for name in ("cauchy.py", "question.py")])
    flags = [*FLAGS, "--plugin", str(EXAMPLE / "question.py"), "--trials", "1", "--dry-run"]
    assert main(STUDIES["tails"], build, flags) == 0
    assert "heavier: 1 Optuna trials over lr, kernel_width, then 1 seeds" in capsys.readouterr().out


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


def test_the_doctor_says_which_plugins_there_are(write):
    plugins = doctor.plugins
    found = plugins.here(doctor.parse(["--plugin", str(EXAMPLE / "cauchy.py")]))
    assert found.verdict == "ok" and found.what == f"cauchy ({loading.hashes()['cauchy']})"
    found = plugins.here(doctor.parse(["--plugin", write("import no_such_module")]))
    assert found.verdict == "failed" and "No module named 'no_such_module'" in found.what


def ended(folder):
    return {item.arm: find_trial(folder, item.trial) for item in read_assignments(folder)}


def test_a_study_with_a_plugin(tmp_path, capsys, monkeypatch):
    """Trained, tabulated with its own column, then and from the records alone, taken up again with the same plug-in only."""
    (column := tmp_path / "column.py").write_text((EXAMPLE / "column.py").read_text())
    argv = [*FLAGS, "--plugin", str(column), "--in-process", "--out", str(tmp_path / "own"), "--set=kernel_tail=2"]
    assert main(STUDY, build, argv) == 0
    capsys.readouterr()
    table = tmp_path / "own" / "table.md"
    assert "Top 2 %" in table.read_text()
    records = ended(tmp_path / "own")
    assert {record.status for record in records.values()} == {"finished"}
    assert records["cauchy"].test["pair"]["top2"] == 1  # of two classes
    assert records["cauchy"].environment["plugins"] == loading.hashes()
    assert records["cauchy"].config["kernel_own"] == "tail=2.0"
    assert records["cauchy"].config["arch"] == "two_layers" and records["cauchy"].data["classes"] == 2
    assert read_study(tmp_path / "own").plugins == loading.hashes()
    forget_all()
    monkeypatch.setattr(sys, "argv", ["analysis", str(tmp_path / "own"), "--format", "md"])
    assert analysis.main() == 0
    said = capsys.readouterr()
    assert (
        "Top 2 %" in table.read_text()
        and said.err == "analysis: reading the records ...\n"
        and list(loading.hashes()) == ["column"]
    )
    for text, word in (("x = 1", "not as the study had it"), (None, "cannot be read (No such file or directory)")):
        forget_all()
        column.unlink() if text is None else column.write_text(text)
        assert analysis.main() == 0
        said = capsys.readouterr()
        assert "Top 2 %" not in table.read_text()
        assert f"analysis: plug-in {column}: {word}" in said.err and "left out unless --plugin names it" in said.err
    column.write_text((EXAMPLE / "column.py").read_text())
    changed = tmp_path / "cauchy.py"
    changed.write_text((EXAMPLE / "cauchy.py").read_text() + "\n")
    assert main(STUDY, build, [str(changed) if word == str(EXAMPLE / "cauchy.py") else word for word in argv]) == 2
    assert "plugins ({'cauchy': " in capsys.readouterr().err
