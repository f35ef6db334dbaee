"""What the documents tell a reader to type: Python is run, commands are read by the parsers that would read them."""

import ast
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import click
import pytest
from ray.scripts.scripts import cli as ray
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from analysis import __main__ as analysis
from analysis.build import build
from mldiv import __main__ as command
from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.doctor.__main__ import parse as parse_doctor
from mldiv.export import command as export
from mldiv.method.kernels import KERNELS
from mldiv.plugins.contracts import faults

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Programs of others: what follows them is theirs to read, unless it is a command of ours in quotation marks or after `--`.
OTHERS = {"cd", "export", "optuna-dashboard", "pip", "rsync", "sbatch", "set", "srun"}


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> list[str]:
    """The page's commands, a line each: those continued joined, variables 1, comments and assignments left out."""
    lines = "\n".join(blocks(page, "sh", "bash")).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\$\w+", "1", line) for line in lines]
    return [line for line in lines if shlex.split(line, comments=True) and not re.match(r"\w+=", line)]


def check(words: list[str]) -> None:
    """Let the parser of a command read it; ValueError, KeyError or SystemExit where it does not understand."""
    program, *rest = words
    for inner in [shlex.split(word) for word in rest if re.match(r"(\S*/)?(python|ray) ", word)]:
        check(inner)
    if program in OTHERS:
        if "--" in rest or (program == "srun" and rest[0] == "ray"):
            check(rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest[0]
    elif program == "ray":
        check_ray(rest)
    elif program == "mldiv":
        check_module("mldiv", rest)
    elif Path(program).name == "python":
        check_module(rest[1], rest[2:]) if rest[0] == "-m" else check_script(rest[0].removeprefix("~/mldiv/"), rest[1:])
    else:
        raise ValueError(f"{program}: nobody knows it")


def check_ray(words: list[str]) -> None:
    if "--" in words:
        cut = words.index("--")
        check(words[cut + 1 :])
        words = [*words[: cut + 1], "true"]
    group: click.Command = ray
    while isinstance(group, click.Group):
        group, words = group.commands[words[0]], words[1:]
    group.make_context("ray", list(words))
    if group is ray.commands["symmetric-run"]:  # the rest of its flags are those of every node's start
        started = curate_and_validate_ray_start_args(list(words[: words.index("--")]))
        ray.commands["start"].make_context("ray", started)
    if group.name == "submit":
        check_script(words[1], [word for word in words[2:] if word not in ("--tmux", "--stop")])


def check_script(path: str, flags: list[str]) -> None:
    folder, name = Path(path).parts[-2:] if "/" in path else ("", path)
    if folder == "studies":
        parse_flags(importlib.import_module(f"studies.{Path(name).stem}").STUDY, flags)
        return
    text = (ROOT / path).read_text(encoding="utf-8")
    assert all(word.split("=")[0] in text for word in flags if word.startswith("--")), flags


def check_module(name: str, flags: list[str]) -> None:
    if name == "mldiv.doctor":
        parse_doctor(flags)
    elif name == "analysis":
        with mock.patch.object(sys, "argv", ["analysis", *flags]), mock.patch.object(analysis, "_run", return_value=0):
            analysis.main()
    elif name == "mldiv":
        check_command(*flags)
    elif name == "pytest":
        assert all((ROOT / word).exists() for word in flags if "/" in word)
    else:
        importlib.import_module(name)


def check_command(name: str, *flags: str) -> None:
    """Let the command `mldiv` read its own flags, or the parser whose part it plays."""
    if name == "run":
        parse_flags(importlib.import_module(f"studies.{flags[0]}").STUDY, flags[1:])
    elif name in (others := {"report": "analysis", "doctor": "mldiv.doctor"}):
        check_module(others[name], list(flags))
    elif name == "export":
        with mock.patch.object(export, "export", return_value=""):
            assert export.main(flags) == 0
    elif name == "check-plugin":
        assert len(flags) == 1
    else:
        assert name in command.COMMANDS and not flags, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_its_program_understands(page):
    for line in commands(page):
        try:
            check(shlex.split(line, comments=True))
        except (Exception, SystemExit) as error:
            pytest.fail(f"{line}\n{type(error).__name__}: {error}")


def asked(line: str) -> tuple[str, tuple] | None:
    """By a study's default folder, what commands there must have in common; None of one with another folder, or of none."""
    words = shlex.split(line, comments=True)
    words = ["python", "studies/kernel_sweep.py", "--preset", "demo"] if words == ["make", "sweep"] else words
    if "python" not in words[0] or not words[1].startswith("studies/") or {"--out", "--dry-run"} & set(words):
        return None
    flags = parse_flags(importlib.import_module(f"studies.{Path(words[1]).stem}").STUDY, words[2:])
    return words[1], (flags.preset.replace("auto", "demo"), flags.data, flags.arch, tuple(flags.plugin))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_is_refused_for_what_one_before_it_left(page):
    """Where it names no folder of its own, the study there is the one that `make sweep`, or the page's first, has begun."""
    found: dict[str, set[tuple]] = {}
    for line in ["make sweep", *commands(page)]:
        if (folder := asked(line)) is not None:
            found.setdefault(folder[0], set()).add(folder[1])
    assert {folder: kinds for folder, kinds in found.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize("line", [
    "python studies/kernel_sweep.py --sead 3", "python -m analysis", "make nothing", "ray upp FILE", "ray up FILE --nothing",
    "srun ray symmetric-run --address a:1 -- python studies/ablation.py --nothing", "curl x", "python studies/nothing.py",
    "srun ray symmetric-run --address a:1 --num-processors 2 -- python studies/ablation.py",
    'sbatch --wrap "python studies/kernel_sweep.py --nothing"', "ray submit FILE studies/kernel_sweep.py --tmux --sead 3",
])  # fmt: skip
def test_a_command_that_cannot_be_is_found(line):
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(line))


def visible():
    """What lies in the checkout; a test run beside this one makes caches, whose names begin with a dot."""
    return {path for path in ROOT.iterdir() if not path.name.startswith(".")}


#: That of the Python interface is one story, run by tests/interface/test_page.py.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page.name != "python.md"], ids=lambda page: page.name
)
def test_every_python_snippet_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["snippet"])
    before = visible()
    with mock.patch.dict(KERNELS), contextlib.redirect_stdout(io.StringIO()):
        for text in blocks(page, "python"):
            names = {"__name__": "snippet"}
            exec(compile(ast.parse(text), page.name, "exec"), names)
            if "cauchy" in names:
                assert faults("kernel", "cauchy") == []
            if "STUDY" in names:
                assert main(names["STUDY"], build, ["--preset", "demo", "--dry-run", "--in-process"]) == 0
    assert visible() == before, "a snippet leaves files in the checkout"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_snippet_imports_the_analysis_before_it_can_be_found(page):
    """A wheel carries that package where `use_analysis` finds it, and no import alone."""
    before, importing, _ = "\n".join(blocks(page, "python")).partition("from analysis")
    assert not importing or "use_analysis()" in before


def test_the_snippet_that_reads_records_reads_a_study_that_still_trains(tmp_path, capsys):
    """A trial that is assigned has no folder yet, and one that trains has no scores."""
    (text,) = blocks(ROOT / "docs" / "records.md", "python")
    shutil.copytree(ROOT / "docs" / "results" / "demo", tmp_path / "study")
    last = json.loads((tmp_path / "study" / "assignments.jsonl").read_text().splitlines()[-1])["trial"]
    shutil.rmtree(tmp_path / "study" / "trials" / last)
    exec(text.replace('"docs/results/demo"', repr(str(tmp_path / "study"))), {})
    assert "mutual learning" in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.name)
def test_every_script_is_one_that_bash_reads(page):
    for text in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_command_of_the_readme_that_needs_nothing_plans(tmp_path):
    (plugin,) = [text for text in blocks(ROOT / "README.md", "python") if "KERNELS" in text]
    (tmp_path / "mine.py").write_text(plugin)
    for line in commands(ROOT / "README.md"):
        program, *rest = shlex.split(line, comments=True)
        if "python" in program:
            rest = [word.replace("mine.py", str(tmp_path / "mine.py")) for word in rest]
            plan = ["--dry-run", "--preset", "demo", "--out", str(tmp_path)] if rest[0].startswith("studies/") else []
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, *rest, *plan], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (line, done.stderr)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200
