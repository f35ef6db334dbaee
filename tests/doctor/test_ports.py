"""What listens beyond loopback, and where: sockets of this process; a Ray that a study starts; a made-up cluster."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from helpers.processes import environment

from mldiv.doctor import __main__ as doctor
from mldiv.doctor import cluster, ports
from mldiv.doctor.machine import OK, WARNING

ALONE = """
import json, os, psutil, ray
from mldiv.cluster.nodes import connect, private_folder
connect("local")
ray.get(ray.remote(lambda: os.getpid()).remote())
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
places = [at.laddr.ip for process in family for at in process.net_connections("tcp") if at.status == psutil.CONN_LISTEN]
folder = private_folder()
print(json.dumps([places, oct(folder.stat().st_mode & 0o777), str(folder), ray.nodes()[0]["NodeManagerAddress"]]))
ray.shutdown()
"""


def flags(*given):
    return doctor.parse(["--address", "local", *given])


@pytest.fixture
def quiet(monkeypatch):
    """No other process of this machine is looked at."""
    monkeypatch.setattr(psutil, "process_iter", lambda names: [with_info(psutil.Process())])


def with_info(process):
    process.info = {"name": process.name(), "cmdline": process.cmdline()}
    return process


@pytest.mark.parametrize(("address", "verdict"), [("127.0.0.1", OK), ("0.0.0.0", WARNING), ("::1", OK), ("::", WARNING)])
def test_an_open_port_of_this_machine(quiet, address, verdict):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family):
        found = ports.beyond_loopback(flags())
    assert found.verdict == verdict
    assert ("the driver (1)" in found.what) == (verdict == WARNING)


def test_nodes_of_a_cluster(monkeypatch):
    there = {"10.0.0.1 (a)": ({"raylet": ["10.0.0.1"] * 2}, []), "10.0.0.2 (b)": ({"gcs_server": ["::"]}, ["8.8.8.8"])}
    monkeypatch.setattr(cluster, "nodes", lambda: there)
    monkeypatch.setattr(cluster, "ask", lambda function, nodes, seconds: there)
    found = ports.beyond_loopback(flags("--address", "10.0.0.1:6379"))
    assert found.verdict == WARNING and "10.0.0.2 (b): ports of gcs_server (1) at 8.8.8.8" in found.what and "SSH" in found.mend
    del there["10.0.0.2 (b)"]
    found = ports.beyond_loopback(flags("--address", "10.0.0.1:6379"))
    assert found.verdict == OK and "10.0.0.1 (a): ports of raylet (2)" in found.what
    there["10.0.0.3 (c)"] = cluster.NoAnswer("no answer within 1 s")
    assert ports.beyond_loopback(flags("--address", "10.0.0.1:6379")).verdict == WARNING


def test_the_unspecified_address_is_every_own_one():
    assert ports.open_to_the_world(["::"], ["10.0.0.1", "8.8.8.8", "fd00::2"]) == ["8.8.8.8"]
    assert ports.open_to_the_world(["10.0.0.1", "2606:4700::1"], ["8.8.8.8"]) == ["2606:4700::1"]
    assert not ports.open_to_the_world(["192.168.0.1", "::ffff:10.0.0.1"], [])


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ray::RayTrainWorker.run_train_fn", "RayTrainWorker"), ("ray::IDLE  ", "IDLE"),
        ("/x/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=/y", "raylet"),
        ("/x/python -u /x/site-packages/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard.py"),
        ("/x/python studies/kernel_sweep.py", "the driver"),
    ],
)  # fmt: skip
def test_programs_have_names(title, name):
    assert ports.program(title) == name


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_of_this_machine_alone_listens_at_loopback():
    """And its folder is its user's alone, whatever Ray opens in it. A socket's path is short: tmp_path is too long."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as place:
        assert_at_loopback(Path(place))


def assert_at_loopback(place):
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment(RAY_TMPDIR=str(place)), capture_output=True, text=True, timeout=120,
        check=False, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    addresses, mode, folder, node = json.loads(done.stdout.splitlines()[-1])
    assert len(addresses) > 5
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert node == "127.0.0.1"
    assert (folder, mode) == (str(place / f"ray-{os.getuid()}"), "0o700")


def test_somebody_elses_folder_is_not_taken(tmp_path, monkeypatch):
    from mldiv.cluster.nodes import private_folder
    from mldiv.config import ConfigError

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"ray-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="not this user's own folder"):
        private_folder()
