"""How many worker groups fit: nodes are not one big machine, GPUs can be shared, and what no machine has is refused."""

import platform
import socket
from pathlib import Path

import pytest
import ray
import torch
from ray._private.utils import check_version_info

from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cluster import nodes
from mldiv.cluster.nodes import Resources, connect, worker_resources
from mldiv.config import ConfigError
from mldiv.presets import PRESETS
from mldiv.study import Study

STUDY = Study("two", "?", "method", {"plain": {}}, (), "plain")


@pytest.mark.parametrize(
    ("resources", "nodes", "fits"),
    [
        (Resources(), [(2, 0)], 2),
        (Resources(), [(1, 0)] * 4, 4),
        (Resources(workers=2), [(1, 0)] * 4, 2),  # a group over two nodes
        (Resources(workers=2), [(1, 0)] * 3, 1),
        (Resources(cpus=2.0), [(3, 0)] * 4, 4),  # twelve processors, but no fifth pair on one node
        (Resources(cpus=2.0), [(1, 0)] * 8, 0),
        (Resources(cpus=0.1), [(1, 0)], 10),  # in floating point 1 // 0.1 is 9
        (Resources(1, 4.0, 1.0), [(16, 2), (4, 4), (64, 0)], 3),  # two for the GPUs, one for the processors
        (Resources(1, 1.0, 0.25), [(16, 1)], 4),
        (Resources(1, 1.0, 0.4), [(16, 2)], 4),  # two on each GPU, none on both
        (Resources(1, 1.0, 1 / 3), [(16, 1)], 3),
        (Resources(1, 1.0, 2.0), [(16, 3), (16, 4)], 3),
        (Resources(4, 4.0, 1.0), [(16, 2)], 0),
        (Resources(), [], 0),
    ],
)
def test_how_many_fit(resources, nodes, fits):
    cluster = [{"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9} for cpus, gpus in nodes]
    assert resources.fit(cluster) == fits
    if fits:
        assert resources.groups(cluster, 1) == 1 and resources.groups(cluster, 100) == fits
    else:
        with pytest.raises(ConfigError, match="lower --workers"):
            resources.groups(cluster, 1)


def share(*argv, gpus):
    return worker_resources(PRESETS["paper"], [{"CPU": 16.0, "GPU": float(gpus)}], parse_flags(STUDY, argv))


def test_flags_win_over_the_preset():
    assert share(gpus=1) == Resources(1, 4.0, 1.0) and share(gpus=0) == Resources()
    assert share("--gpus-per-worker", "0.25", "--cpus-per-worker", "2", gpus=1) == Resources(1, 2.0, 0.25)
    assert share("--gpus-per-worker", "0", gpus=1) == Resources(1, 4.0, 0.0)
    assert share("--gpus-per-worker", "1", "--parallel-trials", "4", gpus=0) == Resources(
        1, 1.0, 1.0
    )  # they come with the groups
    with pytest.raises(ConfigError, match="there is no GPU"):
        share("--gpus-per-worker", "1", gpus=0)


BOOTSTRAP = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 4}}
  spot: {max_workers: 2, resources: {CPU: 8, GPU: 1}}
  on_demand: {resources: {CPU: 8, GPU: 4}}
  idle: {max_workers: 0, resources: {CPU: 99, GPU: 9}}
"""


def test_the_largest_cluster_that_an_autoscaler_may_make(tmp_path, monkeypatch):
    path = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setattr(nodes, "BOOTSTRAP", path)
    assert nodes.largest() == []
    path.write_text(BOOTSTRAP)
    assert nodes.largest() == [{"CPU": 4}] + 3 * [{"CPU": 8, "GPU": 4}]
    path.write_text(BOOTSTRAP.replace("on_demand: {", "on_demand: {max_workers: 1, "))
    assert nodes.largest() == [{"CPU": 4}, {"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}]
    assert Resources(1, 4.0, 1.0).fit(nodes.largest()) == 4 and Resources(1, 4.0).fit(nodes.largest()) == 7
    for text in ("", "[", "max_workers: 1", "head_node_type: a\nmax_workers: 1\navailable_node_types: {a: {resources: {}}}"):
        path.write_text(text)
        assert nodes.largest() == []


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--gpus-per-worker", "1.5", "must be a fraction of one, or a whole number"),
        ("--gpus-per-worker", "-1", "must be a fraction of one, or a whole number"),
        ("--cpus-per-worker", "0", "must be greater than zero"),
    ],
)
def test_impossible_shares_are_named(flag, value, message, tmp_path, capsys):
    assert main(STUDY, lambda folder, place: "", ["--preset", "demo", "--out", str(tmp_path / "x"), flag, value]) == 2
    assert f"{flag} {float(value):g}: {message}" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:6379", "nonsense", "auto"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(tmp_path, monkeypatch, address):
    """Ray itself would try for minutes."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("asked Ray"))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{deaf.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(there)
        address = address.format(port=there.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"^--address {address}: no Ray answers there"):
            connect(address)
        wanted = ["--preset", "demo", "--out", str(tmp_path / "x"), "--address", address]
        assert main(STUDY, lambda folder, place: "", wanted) == 2 and not (tmp_path / "x").exists()
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"^RAY_ADDRESS={address}: no Ray answers there"):
            connect(address)


def test_a_cluster_of_another_ray_is_refused_with_both_versions(monkeypatch):
    """Ray raises a RuntimeError of many lines, with which a study, and the doctor, ended as with a fault of their own."""
    there = {"ray_version": "2.50.0", "python_version": "3.12.1"}
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: check_version_info(there, "node 192.0.2.2"))
    for name in ("nodes.check_address", "ray_private.show_token"):
        monkeypatch.setattr(f"mldiv.cluster.{name}", lambda address: None)
    said = r"^--address head:6379: no Ray cluster could be joined there \(Version mismatch: .* Ray: 2\.50\.0 Python: 3\.12\.1"
    with pytest.raises(ConfigError, match=f"{said} .* Ray: {ray.__version__} Python: {platform.python_version()}\\)$"):
        connect("head:6379")


def test_a_machine_too_busy_for_ray_to_start_in_time_is_told_so(tmp_path, monkeypatch):
    """Ray raises an Exception of no kind of its own after 30 s."""
    late = "The current node timed out during startup. This could happen because the GCS has become overloaded."

    def start(**options):
        raise Exception(late)

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    with pytest.raises(ConfigError, match=rf"^Ray cannot start here \({late}\)"):
        connect("local")


def test_a_place_in_which_ray_cannot_start_is_named(tmp_path, monkeypatch):
    """A path may be too long for Ray's sockets: a study ended with the words of `socket`, and did not say whose path it was."""
    folder = tmp_path / ("x" * 100)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray sets it, for the tests that follow too
    with pytest.raises(ConfigError, match=rf"^Ray cannot start here \(.*AF_UNIX.*\); its files go to {folder}: RAY_TMPDIR"):
        connect("local")


def test_a_home_that_takes_no_token_is_named(tmp_path, monkeypatch):
    """Ray's words name the file at most; a study said that its files go to /tmp, and that RAY_TMPDIR names another place."""
    (home := tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ConfigError, match=r"^Ray cannot start here \(.*\); .* its token to ~/.ray: HOME names another"):
        connect("local")


def test_two_workers_of_a_trial_on_one_gpu_are_refused_before_anything_else(tmp_path, capsys, monkeypatch):
    """NCCL would refuse them when both have started; several trials may share one."""
    monkeypatch.setattr("mldiv.cluster.nodes.connect", lambda address: pytest.fail("joined a cluster"))
    wanted = ["--preset", "demo", "--out", str(tmp_path / "x"), "--gpus-per-worker", "0.5", "--workers"]
    assert main(STUDY, lambda folder, place: "", [*wanted, "2"]) == 2
    said = capsys.readouterr().err
    assert "--workers 2 --gpus-per-worker 0.5: two workers of a trial cannot share a GPU" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"--workers 1 --gpus-per-worker 0\.25 trains several trials side by side"):
        wanted = parse_flags(STUDY, ["--workers", "2", "--gpus-per-worker", "0.25"])
        worker_resources(PRESETS["paper"], [{"CPU": 8, "GPU": 1}], wanted)
    assert Resources(2, 1.0, 1.0).workers == 2 and Resources(1, 1.0, 0.5).gpus == 0.5


def test_bf16_has_instructions_of_its_own_where_the_kernel_lists_them():
    if platform.machine() != "x86_64" or torch.cuda.is_available():
        pytest.skip("told of x86 processors alone")
    listed = set(Path("/proc/cpuinfo").read_text().split())
    assert nodes.emulates_bf16() == ({"avx512bw", "avx512vl", "avx512dq"} - listed != set() and "avx_ne_convert" not in listed)


def test_a_torch_that_cannot_tell_says_nothing_of_bf16(monkeypatch):
    monkeypatch.setattr(nodes.torch, "ops", object())
    assert not nodes.emulates_bf16()
