"""Plug-ins: what the example enters is trained, with Ray and without; what is wrong with another is said by name."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.small_study import TINY

from analysis.build import build
from mldiv.cli import command
from mldiv.cli.main import main
from mldiv.method.kernels import KERNELS
from mldiv.plugins import loading
from mldiv.plugins.contracts import CONTRACTS, faults
from mldiv.plugins.loading import Plugin, PluginError, find, load
from mldiv.records import find_trial, read_assignments, read_study
from mldiv.study import Study
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
    for plugin in loading.loaded():
        loading.forget(plugin.name)


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
    assert command.main(["check-plugin", str(EXAMPLE / "question.py")]) == 0
    assert capsys.readouterr().out.splitlines() == ["study tails: ok"]


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


HEAD = "import torch\nfrom mldiv.method.kernels import KERNELS\n"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("KERNELS['own'] = lambda a, b: a @ b.T", "not within [0, 1]"),
        ("KERNELS['own'] = lambda a, b: torch.exp(-torch.cdist(a, b).square())", "it is not free of scale"),
        ("KERNELS['own'] = lambda a, b: torch.sigmoid(a.sum(1)[:, None] + 0 * b.sum(1)).round()", "it is not symmetric"),
        ("KERNELS['own'] = lambda a, b, width: a @ b.T", "its parameter width must come by keyword, with a default"),
        ("KERNELS['own'] = lambda a, b: None", "raises AttributeError"),
    ],
)
def test_what_a_kernel_does_not_keep_is_said(write, capsys, line, fault):
    assert command.main(["check-plugin", write(HEAD + line)]) == 1
    assert fault in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = (", "SyntaxError"),
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
    for text in ("", "x = 1", "x = 2"):
        if text:
            load([find(write(text))])
        found.append(environment_id(tiny_data, cpu))
        loading.forget("own")
    assert len(set(found)) == 3
    assert environment_id(tiny_data, cpu) == found[0]


def ended(folder):
    return {item.arm: find_trial(folder, item.trial) for item in read_assignments(folder)}


def test_a_study_with_a_plugin(tmp_path, capsys):
    """Trained, tabulated with its own column, taken up again with the same plug-in only."""
    argv = [*FLAGS, "--plugin", str(EXAMPLE / "column.py"), "--in-process", "--out", str(tmp_path / "own")]
    assert main(STUDY, build, argv) == 0
    assert "Top 2 %" in capsys.readouterr().out
    records = ended(tmp_path / "own")
    assert {record.status for record in records.values()} == {"finished"}
    assert records["cauchy"].test["pair"]["top2"] == 1  # of two classes
    assert records["cauchy"].environment["plugins"] == loading.hashes()
    assert records["cauchy"].config["arch"] == "two_layers" and records["cauchy"].data["classes"] == 2
    assert read_study(tmp_path / "own").plugins == loading.hashes()
    for plugin in loading.loaded():
        loading.forget(plugin.name)
    changed = tmp_path / "cauchy.py"
    changed.write_text((EXAMPLE / "cauchy.py").read_text() + "\n")
    assert main(STUDY, build, [str(changed) if word == str(EXAMPLE / "cauchy.py") else word for word in argv]) == 2
    assert "plugins ({'cauchy': " in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_with_a_plugin_on_ray(tmp_path, shared_cluster, capsys):
    """Its worker is a process of its own."""
    argv = [*FLAGS, "--out", str(tmp_path / "own"), "--address", shared_cluster.address, "--parallel-trials", "1"]
    assert main(STUDY, lambda folder, place: "", argv) == 0
    assert {record.status for record in ended(tmp_path / "own").values()} == {"finished"}
    assert torch.isfinite(torch.tensor(ended(tmp_path / "own")["cauchy"].test["pair"]["nll"]))
