"""The head of a cluster is lost in the middle of a study; the same command goes on, on another one of another size."""

import contextlib
import os
import signal

import pytest
from helpers import chaos
from helpers.processes import SHORT, joint_search, until
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@contextlib.contextmanager
def head(cpus):
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        yield one
    finally:
        one.shutdown()


def start(out, *more):
    """The command; it gives up 5 s after its head is lost, not Ray's 60."""
    return joint_search(out, "--samples", "2", *SHORT, *more, RAY_gcs_rpc_server_reconnect_timeout_s="5")


def end(command):
    try:
        return (*command.communicate(timeout=240), command.returncode)
    finally:
        command.kill()


def test_the_head_is_lost(tmp_path):
    with head(2) as first:
        command = start(tmp_path / "study", "--address", first.address)
        until(lambda: chaos.epochs(tmp_path / "study") >= 30 or command.poll() is not None, 240)
        os.kill(first.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
        _, said, code = end(command)
        assert code == 1 and "GCS may have been killed" in said and "Traceback" not in said, said
    before = chaos.epochs(tmp_path / "study")
    with head(1) as second:
        table, said, code = end(start(tmp_path / "study", "--address", second.address))
        assert code == 0 and "| diversity, searched" in table, said
    assert end(start(tmp_path / "quiet", "--in-process"))[2] == 0
    chaos.assert_equal(tmp_path / "study", tmp_path / "quiet")
    assert chaos.history(tmp_path / "study") == chaos.history(tmp_path / "quiet")
    assert 30 <= before < chaos.epochs(tmp_path / "study")
