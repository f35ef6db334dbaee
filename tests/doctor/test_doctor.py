"""The doctor on made-up broken installations, folders, disks and object stores. Its nodes: test_cluster.py."""

import collections
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import boto3
import filelock
import moto.settings
import pytest
import torch
import torchvision
from helpers.object_store import BUCKET, serve

from mldiv.config import ConfigError
from mldiv.doctor import __main__ as doctor
from mldiv.doctor import cluster, locations, machine
from mldiv.doctor.machine import FAILED, OK, SKIPPED, WARNING, Finding

Disk = collections.namedtuple("Disk", "total used free")


def flags(*given):
    return doctor.parse(["--address", "local", *given])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--cpus-per-worker", "0"], "--cpus-per-worker 0: must be greater than zero"),
        (["--cache-size", "nan"], "--cache-size nan: must be greater than zero"),
        (["--out", ""], "--out is empty"),
        (["--limit", "nan"], "--limit nan: must be greater than zero"),
    ],
)
def test_what_a_study_refuses_is_not_looked_at(capsys, wrong, said):
    """It divided by zero workers, or found nothing that would make a sweep fail."""
    with pytest.raises(SystemExit) as end:
        flags(*wrong)
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_ctrl_c_ends_a_check_that_has_no_answer():
    """It waited for the check, for ever, after a traceback."""
    program = """
import signal, threading, time
from mldiv.doctor import __main__ as doctor
main = threading.main_thread().ident
doctor.CHECKS.clear()
doctor.CHECKS["data"] = lambda flags: (signal.pthread_kill(main, signal.SIGINT), time.sleep(60))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell has started in the background
doctor.run([])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def installed(monkeypatch, **versions):
    real = machine.version
    monkeypatch.setattr(machine, "version", lambda name: versions[name] if name in versions else real(name))


def test_packages_out_of_range(monkeypatch):
    assert machine.packages(flags()).verdict in (OK, WARNING)
    installed(monkeypatch, ray="2.59.0", optuna=None)
    found = machine.packages(flags())
    assert found.verdict == FAILED and "optuna is missing; ray 2.59.0, <2.61,>=2.60 is needed" in found.what
    monkeypatch.setattr(machine, "_wanted", lambda: (">=3.99", []))
    assert "Python 3." in machine.packages(flags()).what and machine.packages(flags()).verdict == FAILED


@pytest.mark.parametrize(
    ("lock", "verdict"),
    [
        ("torch==2.99.0\n    # via mldiv\n", OK),
        ("torch==2.98.0\n", WARNING),
        ("torch==2.98.0 ; sys_platform == 'win32'\nnot-installed==1\n", OK),
        (None, OK),
    ],
)
def test_packages_as_locked(tmp_path, monkeypatch, lock, verdict):
    installed(monkeypatch, torch="2.99.0+cpu")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.11"\ndependencies = ["torch>=2.11"]\n')
    if lock is not None:
        (tmp_path / "requirements.lock").write_text(lock)
    found = machine.packages(flags())
    assert found.verdict == verdict
    assert ("torch 2.99.0+cpu (2.98.0 locked)" in found.what) == (verdict == WARNING)
    assert ("all as locked" in found.what) == (verdict == OK and lock is not None)


def test_torchvision_of_another_torch(monkeypatch):
    assert machine.torch_and_torchvision(flags()).verdict == OK

    def nms(*given):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    found = machine.torch_and_torchvision(flags())
    assert (
        found.verdict == FAILED and "(operator torchvision::nms does not exist)" in found.what and "requirements" in found.mend
    )


def test_gpus(monkeypatch):
    def available():
        warnings.warn("The NVIDIA driver on your system is too old (found version 9000).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus(flags()).verdict == OK
    assert machine.gpus(flags("--preset", "paper")).verdict == WARNING
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in machine.gpus(flags()).what and machine.gpus(flags()).verdict == FAILED
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    found = machine.gpus(flags())
    assert found.verdict == FAILED and "driver on your system is too old" in found.what and "update the driver" in found.mend
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hidden by CUDA_VISIBLE_DEVICES" in machine.gpus(flags()).what


def test_a_gpu_that_does_not_compute(monkeypatch):
    def ones(*given, **more):
        if more["device"] == "cuda:1":
            raise RuntimeError("no kernel image is available for execution on the device")
        return torch.zeros(8, 8)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A card")
    monkeypatch.setattr(torch, "ones", ones)
    found = machine.gpus(flags())
    assert found.verdict == FAILED and found.what.startswith("GPU 1 does not compute (no kernel image")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.gpus(flags()) == Finding(OK, "1 x A card")


def test_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    assert 1e6 < machine.free_memory() < 1e15
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    assert machine.free_memory() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() > 1e6
    monkeypatch.setattr(machine, "free_memory", lambda: 1.5 * (machine.WORKER_BYTES + machine.GROUP_BYTES))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1})
    assert machine.memory(flags()).verdict == WARNING
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0})
    assert machine.memory(flags()).verdict == OK


def test_memory_of_nodes_that_do_not_answer(monkeypatch):
    monkeypatch.setattr(cluster, "nodes", lambda: {"a": {}})
    monkeypatch.setattr(cluster, "ask", lambda function, nodes, seconds: {"a": cluster.NoAnswer("no answer within 9 s")})
    assert cluster.memory(flags()) == Finding(WARNING, "a: no answer within 9 s")


def test_limits(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (1024, 65536))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Disk(0, 0, 2**30))
    assert machine.limits(flags()).verdict == OK
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Disk(0, 0, 2**26))
    assert "/dev/shm has 64 MiB free" in machine.limits(flags()).what
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (1024, 1024))
    found = machine.limits(flags())
    assert found.verdict == WARNING and "1024 files only" in found.what


def test_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 90e9, 10e9))
    assert locations.temporary(flags()).verdict == OK
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 96e9, 4e9))
    assert locations.temporary(flags()).verdict == WARNING
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 1e9, 0.5e9))
    assert locations.temporary(flags()).verdict == FAILED
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 90e9, 10e9))
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    found = locations.temporary(flags())
    assert found.verdict == FAILED and "/proc/ray: cannot be written" in found.what and "RAY_TMPDIR" in found.mend


def test_folders(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert locations.results(flags("--out", str(tmp_path / "a" / "b"))).verdict == OK
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for bad in (tmp_path / "file" / "a", "/proc/a"):
        found = locations.results(flags("--out", str(bad)))
        assert found.verdict == FAILED and f"{bad}: cannot be written" in found.what
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 0, 0.9e9))
    found = locations.results(flags("--out", str(tmp_path)))
    assert found.verdict == FAILED and "0.9 GB free, 1 GB are needed" in found.what


@pytest.mark.parametrize("error", [filelock.Timeout("x"), OSError(37, "No locks available")])
def test_a_folder_without_locks(tmp_path, monkeypatch, error):
    def lock(*given, **more):
        raise error

    monkeypatch.setattr(filelock, "FileLock", lock)
    found = locations.store(flags("--cache", str(tmp_path)))
    assert found.verdict == FAILED and "lock" in found.what


def test_the_store_wants_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(locations.shutil, "disk_usage", lambda place: Disk(100e9, 0, 5e9))
    assert locations.store(flags("--cache", str(tmp_path), "--cache-size", "4")).verdict == OK
    found = locations.store(flags("--cache", str(tmp_path), "--cache-size", "6"))
    assert found.verdict == WARNING and "5.0 GB free, the store may take 6" in found.what


def test_places_are_those_of_the_studies(tmp_path, monkeypatch):
    region = "?region=us-east-1"  # else it is asked for, over the network
    monkeypatch.setenv("MLDIV_RESULTS", f"s3://bucket/all{region}")
    assert locations.places(flags()) == {"out": f"s3://bucket/all{region}", "store": f"s3://bucket/all/trunks{region}"}
    named = locations.places(flags("--out", str(tmp_path / "study")))
    assert named == {"out": str(tmp_path / "study"), "store": str(tmp_path / "trunks")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_object_stores(monkeypatch):
    with serve() as url:
        place = f"{url}/doctor"
        assert locations.results(flags("--out", place)).verdict == OK
        left = boto3.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
        assert [entry["Key"] for entry in left] == ["doctor/"]  # pyarrow's mark of a folder
        found = locations.results(flags("--out", "s3://no-such-bucket-here/x"))
        assert found.verdict == FAILED and "NO_SUCH_BUCKET" in found.what and "create the bucket" in found.mend
        with pytest.raises(ConfigError, match="--out nothing://x: no storage that pyarrow knows"):
            locations.results(flags("--out", "nothing://x"))
        monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on keys are looked at
        found = locations.results(flags("--out", place))
        assert found.verdict == FAILED and "AWS_ACCESS_KEY_ID" in found.mend


def test_data(tmp_path):
    assert locations.data(flags("--preset", "demo")) == Finding(OK, "digits")
    found = locations.data(flags("--data", "cifar10", "--data-root", str(tmp_path)))
    assert found.verdict == FAILED and "no such file" in found.what and "--download" in found.what
    assert locations.data(doctor.parse(["--address", "10.0.0.1:6379"])).verdict == SKIPPED
    assert locations.data(doctor.parse(["--address", "10.0.0.1:6379", "--in-process"])).verdict != SKIPPED
    with pytest.raises(ConfigError, match="--preset 'dmeo' is unknown; did you mean 'demo'"):
        locations.data(flags("--preset", "dmeo"))


def test_checks_that_raise_or_hang():
    over = threading.Event()
    raising = {ConfigError("what is wrong"): "what is wrong", ZeroDivisionError("by 0"): "ZeroDivisionError: by 0"}
    with ThreadPoolExecutor() as pool:
        for error, what in raising.items():
            assert doctor.examine(raiser(error), flags(), pool) == Finding(FAILED, what)
        found = doctor.examine(raiser(ImportError("libcudnn.so: no such file\nmore")), flags(), pool)
        assert found.what == "libcudnn.so: no such file" and "requirements.lock" in found.mend
        began = time.monotonic()
        found = doctor.examine(lambda flags: over.wait(20), flags("--limit", "0.2"), pool)
        assert found.verdict == FAILED and "no answer within 0.2 s" in found.what and time.monotonic() - began < 5
        over.set()


def raiser(error):
    def check(flags):
        raise error

    return check


@pytest.mark.parametrize(
    ("ray", "first", "code", "ends"),
    [(OK, OK, 0, "0 failed, 1 with a warning: nothing found"), (OK, FAILED, 1, "1 failed"), (FAILED, OK, 1, "1 failed")],
)
def test_what_is_said(monkeypatch, capsys, ray, first, code, ends):
    after = {"nodes' x": lambda flags: Finding(WARNING, "something", "mend it")}
    checks = {"disk": lambda flags: Finding(first, "a disk"), "Ray": lambda flags: Finding(ray, "Ray"), **after}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "AFTER_RAY", after)
    assert doctor.main(["--address", "local"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{first:8} disk             a disk" and lines[-1].startswith(ends)
    skipped = "skipped  nodes' x         needs Ray"
    assert lines[2] == (skipped if ray == FAILED else "warning  nodes' x         something; mend it")


def test_in_process_nothing_of_ray_is_looked_at(monkeypatch, capsys):
    """Nor joined: a study that trains here needs room for one worker, few files, no folder of Ray's."""

    def refuse(flags):
        raise AssertionError("Ray was asked")

    others = dict.fromkeys((name for name in doctor.CHECKS if name not in doctor.AFTER_RAY), lambda flags: Finding(OK, "well"))
    monkeypatch.setattr(doctor, "CHECKS", others | dict.fromkeys(("Ray", *doctor.AFTER_RAY), refuse))
    assert doctor.main(["--in-process"]) == 0
    assert {line[9:].split("  ")[0] for line in capsys.readouterr().out.splitlines()[:-2]} == others.keys() - {"Ray"}
    monkeypatch.setattr(machine, "free_memory", lambda: 0.9 * (machine.WORKER_BYTES + machine.GROUP_BYTES))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (256, 256))
    monkeypatch.setenv("RAY_TMPDIR", "/proc/no-folder")
    for check in (machine.memory, machine.limits, locations.temporary):
        assert check(flags()).verdict != OK and check(flags("--in-process")).verdict == OK


def test_every_check_is_gone_through():
    assert set(doctor.CHECKS) == {
        *machine.CHECKS,
        "plug-ins",
        "nodes' plug-ins",
        *locations.CHECKS,
        "Ray",
        "data",
        "trials at once",
        *cluster.CHECKS,
        "open ports",
    }
    assert [*doctor.CHECKS].index("Ray") < min([*doctor.CHECKS].index(name) for name in doctor.AFTER_RAY)


def test_no_cluster_answers(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        found = doctor.joined(doctor.parse(["--address", address]))
        assert found.verdict == FAILED and "Connection refused" in found.what and "ray up" in found.mend
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        found = doctor.joined(doctor.parse(["--address", "auto"]))
        assert found.verdict == FAILED and "remove ray_current_cluster" in found.mend
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    found = doctor.joined(doctor.parse(["--address", "auto"]))
    assert found.verdict == FAILED and found.what == "--address auto: no Ray runs on this machine"
    assert "cannot be reached" in doctor.joined(doctor.parse(["--address", "no-such-host.invalid:6379"])).what
