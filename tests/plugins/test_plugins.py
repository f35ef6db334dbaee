"""Plug-ins are loaded, travel, and take part in a study. On Ray: test_worker_groups.py."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from helpers.plugins import EXAMPLE, FLAGS, STUDY, forget, forget_all

from analysis import __main__ as analysis
from analysis.build import build
from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cli.run import prepare
from mldiv.doctor import __main__ as doctor
from mldiv.method.kernels import KERNELS
from mldiv.plugins import loading
from mldiv.plugins.loading import Plugin, PluginError, find, load
from mldiv.records.contents import TrialRecord
from mldiv.records.study_files import find_trial, read_assignments, read_study, write_trial
from mldiv.study import STUDIES
from mldiv.training.first_stage import environment_id

HEAD = "import torch\nfrom typing import Annotated\nfrom mldiv.method.kernels import KERNELS, Range, cosine\n"


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


def test_a_single_file_by_its_path_is_loaded(write):
    loading.load_named(Path(write(HEAD + "KERNELS['own'] = lambda a, b: a")))
    assert "own" in loading.hashes()
    for names in (None, 5, [5]):
        with pytest.raises(PluginError, match=r"plug-in (None|5): no module of this name can be imported here; a file's name"):
            loading.load_named(names)


def test_a_file_with_the_mark_that_windows_editors_put_first_is_loaded(write):
    """Python runs such a file."""
    load([find(write("\ufeff" + HEAD + "KERNELS['own'] = cosine"))])
    assert loading.entered("own") == {"kernel": ["own"]}


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


def test_a_plugins_study_is_run_by_its_name(capsys):
    load([find(str(EXAMPLE / name)) for name in ("cauchy.py", "question.py")])
    flags = [*FLAGS, "--plugin", str(EXAMPLE / "question.py"), "--trials", "1", "--dry-run"]
    assert main(STUDIES["tails"], build, flags) == 0
    assert "heavier: 1 Optuna trials over lr, kernel_width, then 1 seeds" in capsys.readouterr().out


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
