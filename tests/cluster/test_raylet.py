"""A driver ends with its raylet, and says why."""

import subprocess
import sys

import pytest

WATCHED = """
import os, sys, time
from mldiv.cluster.raylet import watched
with watched({os.getpid(): "another", int(sys.argv[1]): "raylet"}, lambda text: print("study:", text, file=sys.stderr)):
    print("watching", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def driver(process, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(process), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_it_says_why_it_ends(sleeper):
    """The dead process is not yet buried: its parent, this one, has not looked."""
    watching = driver(sleeper.pid, 60)
    assert watching.stdout.readline() == "watching\n"
    sleeper.kill()
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 1
    assert f"study: Ray's process on this machine (raylet, {sleeper.pid}) has ended" in err
    assert err.endswith("To continue: run the same command again.\n")


def test_it_ends_in_peace(sleeper):
    watching = driver(sleeper.pid, 0.6)
    _, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (0, "")


@pytest.mark.ray
def test_what_ends_a_driver_is_found(cluster):
    """Of the node that this process has joined, among the nodes of this machine; of the head what holds the cluster's state: a
    driver without that was ended a minute later, with nothing said of going on."""
    from mldiv.cluster import raylet

    started = cluster.head_node.all_processes
    assert raylet.find() == {started[name][0].process.pid: name for name in ("raylet", "gcs_server")}
