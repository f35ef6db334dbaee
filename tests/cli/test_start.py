"""What a person waits for before the first word: `--help` and a wrong flag load none of what takes seconds."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name as canonical

from analysis.build import FORMATS
from mldiv.cli.flags import parse_flags
from mldiv.datasets.files import LAYOUTS
from mldiv.datasets.sources import DATASETS
from mldiv.environment.extras import EXTRAS, install_hint
from mldiv.method.networks import MODELS
from mldiv.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.py"))
SLOW = ["torch", "torchvision", "ray", "optuna", "pandas", "scipy", "sklearn", "matplotlib"]

#: Runs programs one after the other, each with its arguments; prints their exit codes, what is loaded then, and what they said.
RUN = """
import contextlib, io, json, runpy, sys
codes, said = [], io.StringIO()
for kind, name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            {"path": runpy.run_path, "module": runpy.run_module}[kind](name, run_name="__main__")
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps([codes, list(sys.modules), said.getvalue()]))
"""


def loaded_by(*programs):
    """The exit codes of programs in one process of their own, what of SLOW they loaded, and what they said."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(programs)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    codes, modules, said = json.loads(done.stdout)
    return codes, [name for name in SLOW if name in modules], said


def test_help_loads_nothing_slow():
    modules = [("module", name, "--help") for name in ("mldiv", "mldiv.doctor", "analysis")]
    modules += [("module", "mldiv", "studies"), ("module", "mldiv", "run", "weight_balance", "--help")]
    codes, slow, said = loaded_by(*(("path", str(path), "--help") for path in STUDIES), *modules)
    assert codes == [0] * (len(STUDIES) + len(modules)) and slow == []
    assert "Which similarity kernel in Eq. (14)" in said


def test_wrong_flags_are_refused_before_anything_slow_is_loaded():
    sweep = "path", str(ROOT / "studies" / "kernel_sweep.py")
    wrong = [["--sedes", "3"], ["--seeds", "many"], ["--seeds", "0"], ["--select", "best"], ["--in-process", "--workers", "2"]]
    codes, slow, said = loaded_by(
        *((*sweep, *flags) for flags in wrong), ("module", "analysis", "--sedes"), ("module", "mldiv", "rum")
    )
    assert codes == [2] * (len(wrong) + 2) and slow == []
    assert "--seeds 0: must be at least 1" in said


def test_the_help_names_what_the_registries_hold(load_study, capsys):
    """And every data set's layout is what its files are looked for by. Of what plug-ins enter nothing is said."""
    with pytest.raises(SystemExit):
        parse_flags(load_study("kernel_sweep"), ["--help"])
    said = capsys.readouterr().out.replace(",", " ").replace(":", " ").split()
    assert {*MODELS, *DATASETS, *PRESETS} <= set(said)
    assert {name: source.layout for name, source in DATASETS.items() if source.layout} == LAYOUTS
    assert f"what to write, of {','.join(FORMATS)} (" in loaded_by(("module", "analysis", "--help"))[2]


def name_of(requirement):
    return re.split(r"[\[>]", requirement)[0]


def test_what_is_missing_names_its_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional, always = project["optional-dependencies"], {name_of(line) for line in project["dependencies"]} | {"mldiv"}
    wanted = {(name_of(line), extra) for extra in ("analysis", "studies") for line in optional[extra]}
    brought = metadata.packages_distributions()
    found = {(canonical(brought[module][0]), extra) for module, extra in EXTRAS.items()}
    assert found == {(name, extra) for name, extra in wanted if name not in always}  # there, if of an older version
    assert install_hint(ModuleNotFoundError(name="optuna.trial")) == "optuna is not installed: pip install 'mldiv[studies]'"
    with pytest.raises(ModuleNotFoundError, match="of mldiv's own"):
        install_hint(ModuleNotFoundError("of mldiv's own", name="mldiv.method"))
