"""What is larger than anything can be, names that are no text, what a shell or a notebook hands on: one line, or as usual."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mldiv.cli import checks
from mldiv.cli.main import main
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.splits import Shapes

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "1" * 400
NO_TEXT = os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", DIGITS], "...1111111111: must be at most 100,000"),
        (["--seeds", "1000000000"], "--seeds 1000000000: must be at most 100,000"),
        (["--trials", DIGITS, "--dry-run"], "--trials 111"),
        (["--open-suggestions", DIGITS], "--open-suggestions 111"),
        (["--workers", DIGITS], "--workers 111"),
        (["--cache-size", "1e300"], "--cache-size 1e+300: must be greater than zero, and at most 1,000,000,000"),
        (["--cache-size", DIGITS], "--cache-size inf"),
        (["--width", DIGITS], "width = inf: must be a finite number"),
        (["--width", "64", "--arch", "resnet56"], "resnet56 at width 64 has 3,47"),
        (["--set", "test_samples=100000", "--arch", "resnet56", "--width", "8"], "100000 samples of their weights take"),
        (["--set", "fusion_dim=16384", "--set", "peers=8", "--set", "fusion=per_peer"], "its fusion 8,60"),
        (["--set", "lr=1e-323", "--trials", "1"], "lr = 1e-323: must be at least 1e-30"),
        (["--set", "lr=1e308", "--trials", "1"], "lr = 1e+308: must be at most 1e+12"),
        (["--set", "epochs=" + "9" * 5000], "epochs = '999"),
        (["--set", "lr=" + '{"a":' * 2000 + "1" + "}" * 2000], "lr = "),
        (["--set", "initial_sigma=1e300"], "initial_sigma = 1e+300: must be at most 1000"),
        (["--out", f"/tmp/{NO_TEXT}"], "no path ("),
        (["--cache", f"/tmp/{NO_TEXT}"], "no path ("),
        (["--data", "cifar10", "--data-root", f"/tmp/{NO_TEXT}"], "no path ("),
        (["--out", "file://"], "--out file://: no storage"),
        (["--cache", "s3://"], "--cache s3://: cannot be written"),
    ],
)
def test_it_is_refused_in_one_line(load_study, capsys, tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr("mldiv.cli.run.memory_here", lambda: 25e9)
    place = [] if "--out" in flags else ["--out", str(tmp_path / "out")]
    code = main(load_study("kernel_sweep"), lambda folder, place: "", ["--preset", "demo", "--in-process", *place, *flags])
    out, err = capsys.readouterr()
    err = err.removeprefix("kernel_sweep: reading the settings ...\n")
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1 and len(err) < 700
    assert not (tmp_path / "out" / "study.json").exists()


def test_memory_is_counted_by_hand(monkeypatch):
    """Of two peers: means, rhos, gradients and momenta of both; samples of both and the noise of one; the fusion's three."""
    config = TrialConfig(arch="resnet8", width=0.25, fusion_dim=8, fusion_heads=2, validation_samples=3, test_samples=5)
    network = checks._outline("resnet8", 0.25, 10, 1, 8)
    weights = sum(value.numel() for value in network.parameters())
    fused = (4 + 8 + 16) * 8 + 3 * 8 + 3 * 8 + 4 * 8 * 8 + 4 * 8 + 2 * 8 + 10 * 8 + 10
    need = 4 * (weights * (2 * 6 + 5 * 3) + 3 * fused)
    checks._check_memory(config, Shapes(10, 1, 100, 8), network, need)
    with pytest.raises(ConfigError, match=r"resnet8 at width 0\.25 has"):
        checks._check_memory(config, Shapes(10, 1, 100, 8), network, need - 1)


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", pytest.param("TkAgg", marks=pytest.mark.slow)]
)
def test_a_notebooks_backend_is_not_taken(backend):
    command = "import analysis.build, matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run(
        [sys.executable, "-c", command], env=os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "agg\n"), done.stderr


def without_encoding(source: str) -> list[int]:
    """Lines that read or write text in whatever encoding the terminal has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (name := getattr(node.func, "attr", None)) in ("read_text", "write_text", "open"):
            modes = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            texts = name != "open" or any(mode in ("r", "w", "a") for mode in modes)
            if texts and not any(word.arg == "encoding" for word in node.keywords):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["mldiv", "analysis", "studies"])
def test_text_files_are_utf8(folder):
    for path in (ROOT / folder).rglob("*.py"):
        lines = without_encoding(path.read_text(encoding="utf-8"))
        assert not lines, f"{path}: {lines}"


def test_a_text_without_encoding_is_found():
    source = "p.read_text()\np.write_text(x, encoding='utf-8')\np.open('a')\np.open('rb')\nImage.open(p)\n"
    assert without_encoding(source) == [1, 3]
