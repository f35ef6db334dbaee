"""A driver ends with its raylet, and says why."""

import subprocess
import sys

import pytest

WATCHED = """
import sys, time
from mldiv.cluster.raylet import watched
with watched(int(sys.argv[1]), lambda text: print("study:", text, file=sys.stderr)):
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
def test_it_is_found(cluster):
    """Of the node that this process has joined, among the nodes of this machine."""
    from mldiv.cluster import raylet

    head = cluster.head_node.all_processes["raylet"][0].process.pid
    assert raylet.find() == head
