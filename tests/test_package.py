"""What an installation brings: the wheel holds every module and both that lie beside them, and runs a study to its report."""

import csv
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.processes import environment
from helpers.small_study import TINY

import mldiv
from mldiv.environment.checkout import code
from mldiv.export.command import TOOLS  # whose modules need what is no dependency

ROOT = Path(__file__).parent.parent
MODULES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "mldiv").rglob("*.py"))]
CARRIED = [
    path.relative_to(ROOT).as_posix()
    for name in ("analysis", "studies")
    for path in sorted((ROOT / name).rglob("*.*"))
    if path.suffix != ".pyc"
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout. Built from a copy: what was built before would hide what is missing."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("mldiv", "analysis", "studies"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_all_and_nothing_of_a_general_name(wheel):
    held = zipfile.ZipFile(wheel)
    assert {*MODULES, "mldiv/py.typed", *(f"mldiv/carried/{name}" for name in CARRIED)} <= set(held.namelist())
    about = f"mldiv-{mldiv.__version__}.dist-info"
    recorded = held.read(f"{about}/RECORD").decode().splitlines()
    assert {name.partition("/")[0] for name, *_ in csv.reader(recorded)} == {"mldiv", about}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of an environment of its own, elsewhere; its dependencies are those of this one."""
    place, elsewhere = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    venv.create(place)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(place / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    # Of a folder named so the .pth files are not read: an editable mldiv in it is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(name, *arguments):
        done = subprocess.run(
            [str(place / "bin" / name), *arguments], cwd=elsewhere, env=environment(PYTHONPATH=""), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, elsewhere

    return run


@pytest.mark.slow
def test_every_module_can_be_imported_from_the_wheel(installed):
    names = [module.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for module in MODULES]
    names = [name for name in names if not name.endswith("__main__") and name not in TOOLS.values()]
    script = "import importlib, mldiv.environment.checkout; print(mldiv.__file__, mldiv.environment.checkout.code())\n"
    script += f"for name in {names!r}: importlib.import_module(name)"
    file, hashed = installed("python", "-c", script)[0].split()
    assert not Path(file).is_relative_to(ROOT) and hashed == code()


@pytest.mark.slow
def test_an_installed_library_draws_diagrams(installed):
    """The package that draws them is carried, and no import alone finds it."""
    script = "import mldiv; print(mldiv.reliability_diagram({'mine': ([0.5], [True])}).axes[0].get_title())"
    assert installed("python", "-c", script)[0].startswith("mine\nECE 50.00 %")


@pytest.mark.slow
def test_the_doctor_asks_an_installed_wheel_for_what_studies_need(installed):
    printed, _ = installed("python", "-c", "from mldiv.doctor import machine; print(*machine.dependencies())")
    wanted = set(printed.split())
    assert {"torch", "ray", "optuna", "matplotlib"} <= wanted and not {"boto3", "mldiv", "pytest"} & wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "argv", "extra"),
    [("optuna", ["run", "kernel_sweep", "--dry-run"], "studies"), ("matplotlib", ["report", "nowhere"], "analysis")],
)
def test_what_the_library_alone_lacks_is_named_with_its_extra(installed, missing, argv, extra):
    script = f"import sys; sys.modules[{missing!r}] = None; sys.stderr = sys.stdout\n"
    printed, _ = installed("python", "-c", f"{script}from mldiv.__main__ import main; print(main({argv}))")
    assert f"{missing} is not installed: pip install 'mldiv[{extra}]'\n2\n" in printed


@pytest.mark.slow
def test_from_a_study_to_its_report_by_the_wheel(installed):
    listed, here = installed("mldiv", "studies")
    assert "kernel_sweep" in listed and len(listed.splitlines()) == len(list((ROOT / "studies").glob("*.py")))
    flags = ["--preset", "demo", "--in-process", "--arm", "rbf", "--seeds", "2", "--trials", "0"]
    flags += [f"--set={setting}" for setting in TINY]
    column = str(ROOT / "examples" / "plugin" / "column.py")
    printed, _ = installed("mldiv", "run", "kernel_sweep", *flags, "--out", "out", "--plugin", column)
    assert "\nrbf " in printed and (here / "out" / "report.html").exists()
    printed, _ = installed("mldiv", "report", "out", "--out", "again", "--format", "html", "--plugin", column)
    assert "\nrbf " in printed and (here / "again" / "report.html").exists()
