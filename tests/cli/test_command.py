"""The command as a person runs it: to the end, interrupted, killed, and again."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from helpers.processes import SHORT, joint_search

from mldiv import records

pytestmark = pytest.mark.ray


def start(out):
    return joint_search(out, "--samples", "2", "--groups", "1", *SHORT)


def wait_for_trials(out, count, limit=180):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done = [path for path in out.glob("trials/*/trial.json") if records.read_trial(path.parent).final]
        if len(done) >= count:
            return
        time.sleep(0.2)
    raise AssertionError("no trial ended")


def relatives(session):
    """Processes of the command's session, or whose command line names Ray; its two agents notice a minute later."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
        if "Agent" in line:
            continue
        if fields[0] != "Z" and (
            int(fields[3]) == session or "raylet" in line or line.startswith("ray::") or "gcs_server" in line
        ):
            found.append((int(path.name), line[:80]))
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Interrupted once, killed once, finished, and run once more; what each run said."""
    folder = tmp_path_factory.mktemp("command")
    out, said = folder / "out", {}
    first = start(out)
    wait_for_trials(out, 1)
    os.killpg(first.pid, signal.SIGINT)
    said["interrupted"] = (*first.communicate(timeout=90), first.returncode)
    time.sleep(3)
    said["left after interrupt"] = relatives(first.pid)

    second = start(out)
    wait_for_trials(out, 3)
    second.kill()
    second.communicate(timeout=30)
    end = time.monotonic() + 60
    while (left := relatives(second.pid)) and time.monotonic() < end:
        time.sleep(0.5)
    said["left after kill"] = left

    third = start(out)
    said["finished"] = (*third.communicate(timeout=300), third.returncode)
    before = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*")}
    began = time.monotonic()
    fourth = start(out)
    said["again"] = (*fourth.communicate(timeout=120), fourth.returncode)
    said["seconds"] = time.monotonic() - began
    said["touched"] = [path for path in out.glob("trials/*/*") if before.get(path) != path.stat().st_mtime_ns]
    yield said, out
    shutil.rmtree(folder)


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing(story):
    _, err, code = story[0]["interrupted"]
    assert code == 130 and "To continue: run the same command again." in err and "Traceback" not in err
    assert story[0]["left after interrupt"] == []


def test_a_killed_driver_leaves_nothing(story):
    assert story[0]["left after kill"] == []


def test_the_same_command_finishes(story):
    said, out = story
    text, err, code = said["finished"]
    assert code == 0, err
    assert "| diversity, searched" in text and "The data cannot tell" in text
    for name in ("table.md", "table.csv", "table.tex", "answer.md", "reliability.png", "reliability.pdf", "optuna.journal"):
        assert (out / name).stat().st_size > 100, name
    assignments = records.read_assignments(out)
    found = [records.find_trial(out, item.trial) for item in assignments]
    assert len(found) == 8 and all(record.status == "finished" for record in found)
    assert len(list((out / "trials").iterdir())) == len({item.trial for item in assignments})


def test_once_more_trains_nothing(story):
    said, _ = story
    text, err, code = said["again"]
    assert code == 0 and "nothing to train" in err and "| diversity, searched" in text
    assert said["touched"] == []
