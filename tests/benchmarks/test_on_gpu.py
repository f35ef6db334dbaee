"""The script for a rented hour, tiny, where the device is the processor: whole, in pieces, and where pieces fail."""

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import processes

from analysis.records.load import load
from mldiv.method.pair import MutualPair

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "on_gpu.py"
TINY = ["--tiny", "--data", "digits", "--device", "cpu", "--seeds", "1", "--lanes", "2", "--arch", "resnet8"]


@pytest.fixture
def script(monkeypatch):
    """With a stand-in for graphs, and a compiler that leaves all as it is."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(SCRIPT.parent)])
    monkeypatch.setattr(MutualPair, "compile", lambda pair: None)
    before = set(sys.modules)
    module = importlib.import_module("on_gpu")
    with importlib.import_module("device_checks").without_graphs():
        yield module
    for name in set(sys.modules) - before:  # those beside the script have names that others have too
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPT.parent)):
            del sys.modules[name]


def rows(folder, part=None):
    found = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines() if line.endswith("}")]
    return [row for row in found if part in (None, row["part"]) and "begun" not in row and row["part"] != "head"]


def stop_after(script, monkeypatch, count):
    """Time is up once so many pieces have begun."""
    left = iter(range(count))
    add = script.Rows.add

    def adding(kept, row):
        add(kept, row)
        if "begun" in row and next(left, None) is None:
            raise script.PieceOver

    monkeypatch.setattr(script.Rows, "add", adding)


@pytest.mark.slow
def test_whole_and_in_pieces(script, tmp_path, monkeypatch, capsys):
    """Every result is on disk when it is known; the same command goes on behind it, and at the end does nothing."""
    monkeypatch.setattr(script, "CHECKS", {name: script.CHECKS[name] for name in ("two ranks on one GPU", "lanes")})
    command = [*TINY, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_after(script, patch, 4)
        assert script.main(command) == script.MORE_TO_DO
    assert [row["name"] for row in rows(tmp_path)] == [
        "two ranks on one GPU",
        "lanes",
        "peaks",
        "resnet8, deterministic pair, eager",
    ]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"part": "steps", "name": "cut o')
    assert script.main(command) == script.ALL_ENDED
    steps = {row["name"]: row for row in rows(tmp_path, "steps")}
    first, second, graphed = (
        steps[f"resnet8, mldiv {name}"] for name in ("stage one, eager", "stage two, eager", "stage two, graph")
    )
    assert 0 < first["operations"] < second["operations"] and "operations" not in graphed, steps
    assert all(row["ms"] > 0 for row in (first, second, graphed)) and first["flops"] > 0 and first["bytes"] > 0
    assert [row["name"] for row in rows(tmp_path, "projection")] == ["off", "graph", "on"]
    assert all(row["minutes_6_arms_8_seeds"] > row["minutes_4_arms_8_seeds"] > 0 for row in rows(tmp_path, "projection"))
    study = load(tmp_path / "ablation")
    assert len(study.records) == 4 and all(record.status == "finished" for record in study.records.values())
    table = (tmp_path / "on_gpu.md").read_text()
    for said in ("| two ranks on one GPU | ok |", "| resnet8, mldiv stage two, graph |", "minutes_pair", "commit", "torch 2."):
        assert said in table, said
    count = len(rows(tmp_path))
    assert script.main(command) == script.ALL_ENDED and len(rows(tmp_path)) == count
    assert "all is done" in capsys.readouterr().out


def test_steps_one_after_the_other(script, tmp_path, monkeypatch):
    """What is known is not measured again, what was not finished is; a line that was cut off is none."""
    wanted = ["deterministic pair, graph", "mldiv stage one, eager"]
    monkeypatch.setattr(script, "methods", lambda *given, real=script.methods: {name: real(*given)[name] for name in wanted})
    command = [*TINY, "--part", "2", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_after(script, patch, 1)
        assert script.main(command) == script.MORE_TO_DO
    (first,) = rows(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"part": "steps", "name": "cut o')
    assert script.main(command) == script.ALL_ENDED
    found = rows(tmp_path)
    lanes = [f"resnet8, 2 lanes, stage {stage}, {how}" for stage in ("one", "two") for how in ("eager", "graph")]
    assert found[0] == first and [row["name"] for row in found] == ["peaks", *(f"resnet8, {name}" for name in wanted), *lanes]
    assert found[1]["ms"] > 0 and "operations" not in found[1] and found[2]["operations"] > 300 and found[2]["flops"] > 0


def test_peaks_of_a_machine_in_use_are_never_nothing(script, monkeypatch):
    """What a step's arithmetic takes is divided by them."""
    monkeypatch.setattr(sys.modules["step_methods"], "seconds_of", lambda *given, **more: 1000.0)
    assert min(script.machine_peaks(torch.device("cpu"), tiny=True).values()) > 0


def test_what_fails_is_a_result_and_what_never_ends_is_left_out(script, tmp_path, monkeypatch, capsys):
    def fails(device, folder):
        raise AssertionError("0.5 of the way apart")

    def never_ends(device, folder):
        raise script.PieceOver

    monkeypatch.setattr(script, "CHECKS", {"fails": fails, "never ends": never_ends, "after": lambda device, folder: "seen"})
    command = [*TINY, "--part", "1", "--out", str(tmp_path)]
    assert [script.main(command) for _ in range(3)] == [script.MORE_TO_DO, script.MORE_TO_DO, 1]
    assert [row.get("failed", row.get("said")) for row in rows(tmp_path)] == [
        "AssertionError: 0.5 of the way apart", "did not come to an end in 2 tries", "seen",
    ]  # fmt: skip
    assert "failed: fails" in capsys.readouterr().out


def test_a_piece_that_takes_too_long_has_failed_and_the_next_one_is_measured(script, tmp_path, monkeypatch):
    """One that hears the alarm, and one that does not, as where the device hangs: the rest is for a new process."""
    begun_anew = threading.Event()

    def deaf(device, folder):
        while not begun_anew.is_set():
            with contextlib.suppress(script.PieceOver):
                begun_anew.wait(10)
        return "at last"

    monkeypatch.setattr(script, "begin_anew", lambda until: begun_anew.set())
    monkeypatch.setattr(script.os, "_exit", lambda code: None)
    monkeypatch.setattr(script, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(script, "GRACE_SECONDS", 0.2)
    checks = {"sleeps": lambda device, folder: time.sleep(10), "after": lambda device, folder: "seen", "deaf": deaf}
    monkeypatch.setattr(script, "CHECKS", checks)
    assert script.main([*TINY, "--part", "1", "--out", str(tmp_path)]) == 1
    found = [(row["name"], row.get("failed", row.get("said"))) for row in rows(tmp_path)]
    assert found[:3] == [
        ("sleeps", "did not come to an end in 0 s"), ("after", "seen"), ("deaf", "did not come to an end in 0 s"),
    ]  # fmt: skip


def test_after_an_error_that_leaves_the_device_useless_the_rest_is_for_a_new_process(script, tmp_path, monkeypatch):
    """And without a device nothing is measured, on the processor in its place least of all."""

    def breaks(device, folder):
        monkeypatch.setattr(script.torch, "ones", breaks)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def instead(program, command):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert (program, command[0], command[-2]) == (sys.executable, sys.executable, "--minutes")
        assert command[1:-2] == sys.orig_argv[1:] and 0 < float(command[-1]) <= 7
        raise SystemExit

    monkeypatch.setattr(script.os, "execv", instead)
    monkeypatch.setattr(script, "CHECKS", {"breaks": breaks, "after": lambda device, folder: "seen"})
    command = [*TINY, "--part", "1", "--minutes", "7", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        script.main(command)
    with pytest.raises(SystemExit), script.time_limit(60):  # as where the main thread hears nothing
        script.begin_anew(time.time() + 60)
    assert [row["name"] for row in rows(tmp_path)] == ["breaks"]
    assert script.main(command) == 2 and [row["name"] for row in rows(tmp_path)] == ["breaks"]


def test_a_projection_that_fails_hides_no_other(script, tmp_path, monkeypatch):
    def projected(flags, base, how):
        if how != "graph":
            raise RuntimeError(f"{how} fails")
        return {"minutes_pair": 3.5}

    monkeypatch.setattr(script, "projected", projected)
    script.main([*TINY, "--part", "3", "--out", str(tmp_path)])
    table = (tmp_path / "on_gpu.md").read_text()
    assert "| off | RuntimeError: off fails | - |" in table and "| graph | - | 3.5 |" in table


def test_time_that_is_up_ends_it(script, tmp_path):
    assert script.main([*TINY, "--part", "2", "--minutes", "0", "--out", str(tmp_path)]) == script.MORE_TO_DO
    assert rows(tmp_path) == []


def test_all_checks_are_made(script, tmp_path, monkeypatch):
    """That each passes here too: tests/training/test_gpu.py."""
    for name in script.CHECKS:
        monkeypatch.setitem(script.CHECKS, name, lambda device, folder: "seen")
    assert script.main([*TINY, "--part", "1", "--out", str(tmp_path)]) == script.ALL_ENDED
    assert [row["name"] for row in rows(tmp_path)] == list(script.CHECKS)


def import_it(folder):
    sys.path.append(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT))
    (folder / "modules").write_text("\n".join(sys.modules))


@pytest.mark.slow
def test_it_finds_a_checkout_that_is_not_installed(tmp_path):
    """Without site, no editable install is seen."""
    libraries = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    command = [sys.executable, "-S", str(SCRIPT), "--help"]
    found = subprocess.run(command, env={"PYTHONPATH": libraries}, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_neither_ray_nor_optuna_is_imported(tmp_path):
    with processes(import_it, (tmp_path,)) as (process,):
        process.join(60)
        assert process.exitcode == 0
    assert not {"ray", "optuna"} & set((tmp_path / "modules").read_text().splitlines())
