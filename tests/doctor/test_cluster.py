"""The doctor on clusters: a sound one of two nodes, and one whose third node lacks what the others have."""

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from helpers.plugins import forget_all
from helpers.processes import environment
from PIL import Image

from mldiv import distributed
from mldiv.doctor import __main__ as doctor
from mldiv.doctor import cluster as checks
from mldiv.doctor import machine, plugins
from mldiv.doctor.machine import FAILED, OK, WARNING

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"

#: A node that sees an empty folder at {hidden}, other code of mldiv, no network interface for gloo, and claims a GPU. Ray gives
#: a node 30 s to start, which is not enough beside other tests on two processors: then another try.
LAME = """
set -e
mount -t tmpfs tmpfs {hidden}
mount --bind {changed} {code}
export GLOO_SOCKET_IFNAME=none0
for try in 1 2 3; do
    {python} -m ray.scripts.scripts start --address={address} --num-cpus=1 --num-gpus=1 --block && exit
done
exit 1
"""

try:
    NO_MOUNTS = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
except OSError:
    NO_MOUNTS = 1


@pytest.fixture
def flags(cluster):
    return lambda *given: doctor.parse(["--address", cluster.address, "--limit", "40", "--preset", "demo", *given])


@pytest.fixture(scope="class")
def lame(cluster, tmp_path_factory):
    """A third node, in mounts of its own: its name, and the folder that is empty there."""
    folder = tmp_path_factory.mktemp("lame")
    (hidden := folder / "hidden").mkdir()
    changed, code = (
        folder / "changed.py",
        Path(checks.__file__).parents[1] / "method" / "alignment.py",
    )
    changed.write_text(f"{code.read_text()}# changed\n")
    script = LAME.format(hidden=hidden, changed=changed, code=code, python=sys.executable, address=cluster.address)
    before = set(checks.nodes())
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 180
        while not (new := set(checks.nodes()) - before):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
        yield new.pop(), hidden
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        while len(checks.nodes()) > len(before):
            time.sleep(0.2)


@pytest.mark.parametrize("name", checks.CHECKS)
def test_a_sound_cluster(cluster, flags, tmp_path, name):
    given = flags("--workers", "2", "--out", f"{cluster.bucket}/study", "--cache", str(tmp_path))
    found = checks.CHECKS[name](given)
    assert found.verdict == OK, found
    assert "2 nodes" in found.what or "2 processes on as many nodes add up" in found.what


def test_plugins_on_every_node(cluster, flags, tmp_path, monkeypatch):
    """A file is sent there; a module must be there, from the same source."""
    (tmp_path / "own_module.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        given = flags("--plugin", str(EXAMPLE / "cauchy.py"), "--data", "stripes")
        assert plugins.here(given).verdict == OK
        assert plugins.everywhere(given) == plugins.Finding(OK, "the same on 2 nodes")
        assert checks.same_data(given).verdict == OK
        assert plugins.here(flags("--plugin", "own_module")).verdict == OK
        found = plugins.everywhere(given)
        assert found.verdict == FAILED and found.what.count("own_module: no module of this name can be imported here") == 2
    finally:
        forget_all()


def test_capacity(cluster, flags, monkeypatch):
    assert "2 now, of 1 process each" in doctor.check_capacity(flags()).what
    assert doctor.check_capacity(flags("--workers", "2")).verdict == OK
    with monkeypatch.context() as patch:
        patch.setattr(machine, "free_memory", lambda: 1.5 * machine.GROUP_BYTES)
        assert doctor.check_capacity(flags("--workers", "2")).verdict == OK
        found = doctor.check_capacity(flags())
        assert found.verdict == WARNING and "0.75 GB for each here, where the driver runs, and 1.1 GB are free" in found.what
    found = doctor.check_capacity(flags("--workers", "3"))
    assert found.verdict == FAILED and "a group of 3 workers needs" in found.what
    found = doctor.check_capacity(flags("--parallel-trials", "5"))
    assert found.verdict == WARNING and "--parallel-trials 5 asks for more" in found.what


@pytest.mark.skipif(NO_MOUNTS != 0, reason="no mount namespaces here (unshare -m as root)")
class TestALameNode:
    def test_other_code(self, lame, flags):
        found = checks.same_software(flags())
        assert found.verdict == FAILED and found.what.startswith(f"{lame[0]}: mldiv's code ") and ";" not in found.what

    def test_another_folder(self, lame, flags):
        found = checks.shared("out", flags("--out", str(lame[1])))
        assert found.verdict == FAILED and found.what == f"{lame[1]}: {lame[0]}: what is written here is not seen there"
        assert list(lame[1].iterdir()) == []

    def test_a_shared_folder(self, lame, flags, tmp_path):
        assert checks.shared("store", flags("--cache", str(tmp_path / "new"))).verdict == OK
        assert list(tmp_path.iterdir()) == []

    def test_no_data(self, lame, flags):
        for split in ("train", "val"):
            for kind in "ab":
                (folder := lame[1] / "images" / split / kind).mkdir(parents=True)
                for name in "12":
                    Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        found = checks.same_data(flags("--data", "image_folder", "--data-root", str(lame[1] / "images")))
        shutil.rmtree(lame[1] / "images")
        assert found.verdict == FAILED and found.what.startswith(f"{lame[0]}: {lame[1]}/images: no such folder")
        assert found.what.count(str(lame[1])) == 1, "the other nodes hold complete data"

    def test_a_gpu_that_torch_lacks(self, lame, flags):
        found = checks.same_gpus(flags())
        assert found.verdict == FAILED and found.what == f"{lame[0]}: Ray counts 1 GPUs, torch can use 0"

    def test_no_way_to_the_others(self, lame, flags):
        assert checks.reach_each_other(flags()).verdict == OK
        found = checks.reach_each_other(flags("--workers", "2", "--limit", "15"))
        assert found.verdict == FAILED and lame[0] in found.what and "GLOO_SOCKET_IFNAME" in found.mend


def test_no_memory(cluster, flags, monkeypatch):
    monkeypatch.setattr(machine, "WORKER_BYTES", 1e15)
    found = checks.memory(flags())
    assert found.verdict == WARNING and all(name in found.what for name in checks.nodes()) and "Ray kills" in found.mend


@pytest.mark.parametrize(("off", "said"), [(-100, "99 s behind"), (100, "99 s ahead"), (20, None)])
def test_a_wrong_clock(cluster, flags, monkeypatch, off, said):
    def ask(function, arguments, seconds):
        began = time.time()
        time.sleep(1.0)
        return {"there": began + off + (0.9 if off < 0 else 0.1)}

    monkeypatch.setattr(checks, "ask", ask)
    found = checks.same_clocks(flags())
    assert (found.verdict, said is None or said in found.what) == (OK if said is None else WARNING, True)


def test_a_silent_node_is_not_waited_for(cluster):
    """One of two processes that are to meet waits for the other."""
    first, began = next(iter(checks.nodes())), time.monotonic()
    answers = checks.ask(checks.all_reduce_ones, {first: ("127.0.0.1", distributed.free_port("127.0.0.1"), 0, 2, 100.0)}, 2.0)
    assert isinstance(answers[first], checks.NoAnswer) and time.monotonic() - began < 10


def test_nodes_that_lack_code_are_named(cluster, flags, monkeypatch):
    """This module is none of theirs."""
    monkeypatch.setattr(checks, "software", unknown_there)
    monkeypatch.setattr(checks, "machine", types.SimpleNamespace(dependencies=lambda: []))
    found = checks.same_software(flags())
    assert found.verdict == FAILED
    assert all(f"{name}: ModuleNotFoundError: No module named 'test_cluster'" in found.what for name in checks.nodes())


def unknown_there(names):
    return {}


def ask_doctor(tmp_path, *given, **more):
    command = [sys.executable, "-m", "mldiv.doctor", "--preset", "demo", "--out", str(tmp_path / "study"), *given]
    found = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=300, check=False)
    lines = dict(
        (line[9:25].strip(), line)
        for line in found.stdout.splitlines()
        if line[:8].strip() in ("ok", "warning", "failed", "skipped")
    )
    assert list(lines) == list(doctor.CHECKS), found.stdout + found.stderr
    return lines, found


def test_the_command_on_this_machine(cluster, tmp_path):
    """Where another Ray runs: the cluster. On one of two machines: tests/cluster/test_ray_up.py."""
    lines, found = ask_doctor(tmp_path, "--address", "local")
    assert found.returncode == 0 and found.stdout.splitlines()[-1].startswith("0 failed")
    assert "another Ray" in lines["Ray"] and lines["Ray"].startswith("warning"), found.stdout
    assert list(tmp_path.iterdir()) == []


#: A cluster with a token, until its input ends.
GUARDED = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def guarded():
    """Its address."""
    guard = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32}
    with subprocess.Popen([sys.executable, "-c", GUARDED], env=guard, stdin=-1, stdout=-1, stderr=-3, text=True) as head:
        try:
            yield next(line.strip() for line in head.stdout if line.strip().rpartition(":")[2].isdigit())
        finally:
            head.stdin.close()
            head.wait(60)


@pytest.mark.parametrize("shown", [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 32}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_wrong_token(tmp_path, guarded, shown):
    lines, found = ask_doctor(tmp_path, "--address", guarded, **shown)
    assert found.returncode == 1 and "the token that this machine shows is not the cluster's" in lines["Ray"], found.stdout
    assert lines["nodes' DDP"].startswith("skipped")


def test_a_study_with_a_wrong_token_ends_as_soon(guarded):
    """Ray would try for a minute, and say that it could not connect."""
    join = f"from mldiv.cluster.nodes import connect; connect({guarded!r})"
    shown = environment(RAY_AUTH_MODE="disabled")
    found = subprocess.run([sys.executable, "-c", join], env=shown, capture_output=True, text=True, timeout=300, check=False)
    assert f"ConfigError: --address {guarded}: the token that this machine shows" in found.stderr.splitlines()[-1]
