"""`ray up` of cluster.onprem.yaml on machines with SSH, a study by `ray submit`, its results, `ray down`."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import machines
from helpers.clusters import busy
from helpers.processes import environment, running, until

from mldiv.records import study_files
from mldiv.records.study_files import read_trial

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(machines.missing() is not None, reason=str(machines.missing())),
]

FILE = "cluster.onprem.yaml"
ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).parent / "ray"

#: What a person changes in the file, and the installation, which is this environment's: the lock's takes minutes. Of this
#: machine's processors each has one.
CHANGES = {
    "cluster_name: mldiv": "cluster_name: {name}",
    "head_ip: 192.0.2.1": "head_ip: {head}",
    "worker_ips: [192.0.2.2]": "worker_ips: [{worker}]",
    "ssh_user: CHANGE-ME": "ssh_user: root",
    "~/.ssh/id_ed25519": "{folder}/user",
    "/shared/CHANGE-ME/mldiv": "{folder}/results",
    "cd ~/mldiv && make .venv": "ln -sfn {prefix} ~/mldiv/.venv; echo 'export PYTHONPATH=$HOME/mldiv' >> ~/.mldiv; "
    "echo 'export RAY_gcs_rpc_server_reconnect_timeout_s=5' >> ~/.mldiv",  # a worker machine ends so long after its head
    "ray start --head": "ray start --head --num-cpus=1",
    "ray start --address": "ray start --num-cpus=1 --address",
}
COUNT = """python -c 'import ray; ray.init(logging_level="ERROR"); print("nodes:", sum(n["Alive"] for n in ray.nodes()))'"""
#: What becomes of all placement groups that there ever were.
GROUPS = """python -c 'import ray; ray.init(logging_level="ERROR"); from ray.util import placement_group_table as table; \
print("groups:", *{group["state"] for group in table().values()})'"""
#: The kernel sweep's flags: two short trials, each on both machines.
#: MLDIV_SUBMIT="--preset demo" submits the whole demo instead.
SHORT = (
    "--preset demo --workers 2 --parallel-trials 1 --seeds 1 --trials 0 --arm rbf --set epochs=3 --set switch_epoch=2 "
    "--set pretrain_epochs=1 --set width=0.25 --set train_size=128 --set validation_size=64 --set test_size=64"
)
STUDY = os.environ.get("MLDIV_SUBMIT", SHORT)


class Cluster:
    """The commands of `ray` as a person types them on a machine of their own, from a checkout."""

    def __init__(self, folder: Path, checkout: Path, addresses: list[str]) -> None:
        self.checkout, self.folder = checkout, folder
        own = {"HOME": folder / "home", "TMPDIR": folder / "temporary"}
        for path in own.values():
            path.mkdir()
        own["PATH"] = f"{RAY.parent}:{os.environ['PATH']}"
        self.environment = environment(RAY_AUTH_MODE="token", **{name: str(value) for name, value in own.items()})
        self.name = f"{folder.name}-{os.getpid()}"
        self.ray("get-auth-token", "--generate")
        text = (checkout / FILE).read_text()
        head, worker = addresses
        values = {"name": self.name, "head": head, "worker": worker, "folder": folder, "prefix": sys.prefix}
        for old, new in CHANGES.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new.format(**values))
        (checkout / FILE).write_text(text)

    def ray(self, *arguments: str) -> str:
        done = subprocess.run(
            [RAY, *arguments], cwd=self.checkout, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=1200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder, checkout = tmp_path_factory.mktemp("machines"), tmp_path_factory.mktemp("checkout") / "mldiv"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".?*", "results", "data", "docs"))
    with machines.machines(2, folder) as addresses:
        cluster = Cluster(folder, checkout, addresses)
        try:
            cluster.ray("up", "-y", "--no-config-cache", FILE)
            assert raylets()
            until(lambda: "nodes: 2" in cluster.ray("exec", FILE, COUNT), 120)
            yield cluster
            cluster.ray("down", "-y", FILE)
        finally:
            for left in Path("/tmp/ray").glob(f"cluster-{cluster.name}.*"):  # Ray's memory of which addresses are taken
                left.unlink()
        end = time.monotonic() + 120  # the worker's sees after a minute that its head has gone
        while raylets():
            assert time.monotonic() < end, "ray down left Ray running"
            time.sleep(0.5)


def raylets() -> set[int]:
    return {pid for pid, _, title in running() if "/raylet " in title and machines.NETWORK in title}


def test_the_head_is_the_first_machine(cluster):
    assert cluster.ray("get-head-ip", FILE).split()[-1] == f"{machines.NETWORK}.1"


def test_the_doctor_finds_nothing(cluster):
    said = cluster.ray("exec", FILE, "python -m mldiv.doctor --workers 2")
    assert "joined at auto" in said and "the same on 2 nodes" in said and "2 processes on as many nodes add up" in said
    assert "\n0 failed" in said.replace("\r", "") and "2 nodes, 2 CPUs" in said


def test_a_study_as_a_job_and_by_ray_submit(cluster, tmp_path):
    """On the head, which has a dashboard, where nothing is left of it; then from here, where all is recorded; the results come
    here by `ray rsync-down`."""
    results = cluster.folder / "results"
    job = "ray job submit --address http://127.0.0.1:8265 -- python ~/mldiv/studies/kernel_sweep.py"
    said = cluster.ray("exec", FILE, " ".join([job, *STUDY.split()]))
    assert "succeeded" in said and len(finished(results / "kernel_sweep")) == (2 if STUDY == SHORT else 42)
    if STUDY == SHORT:
        ranks = {read_trial(path.parent).environment["world_size"] for path in results.glob("kernel_sweep/trials/*/trial.json")}
        assert ranks == {2}
    machines_own = raylets()
    until(lambda: not busy({pid: title for pid, parent, title in running() if parent in machines_own}), 30)
    assert "groups: REMOVED\n" in cluster.ray("exec", FILE, GROUPS).replace("\r", "")
    said = cluster.ray("submit", FILE, "studies/kernel_sweep.py", "--", *STUDY.split())
    assert "nothing to train" in said and "\nrbf " in said.replace("\r", "")
    cluster.ray("rsync-down", FILE, f"{results}/kernel_sweep/table.md", str(tmp_path / "table.md"))
    assert "| rbf" in (tmp_path / "table.md").read_text()


def finished(out: Path) -> set[str]:
    found = {item.trial: study_files.find_trial(out, item.trial) for item in study_files.read_assignments(out)}
    return {trial for trial, record in found.items() if record is not None and record.status == "finished"}
