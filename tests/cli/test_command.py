"""The command as a person runs it: to the end, interrupted, killed, and again."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest
import ray
from helpers import chaos
from helpers.processes import SHORT, elsewhere, joint_search, until
from ray.cluster_utils import Cluster

from analysis.build import build
from mldiv.cli.main import main
from mldiv.records import study_files

pytestmark = pytest.mark.ray


def start(out, *flags, **environment):
    return joint_search(out, "--trials", "2", *SHORT, *flags, **environment)


def final(out):
    """How many trials have their final record."""
    return sum(study_files.read_trial(path.parent).final for path in out.glob("trials/*/trial.json"))


def rays():
    """Processes of any Ray on this machine but of other test runs'; a Ray's two agents notice its end a minute later."""
    marks = ("raylet", "gcs_server")
    titles = {pid: title for pid, _, title in elsewhere() if "Agent" not in title}
    return {pid for pid, title in titles.items() if title.startswith("ray::") or any(mark in title for mark in marks)}


def left(session, before):
    """Living processes of the command's session, and of Rays that were not there before."""
    found = rays() - before
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z" and int(fields[3]) == session and b"Agent" not in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    return found


def assert_finished(out, said, trials):
    text, err, code = said
    assert code == 0, err
    assert "\ndiversity, searched" in text
    answer = (out / "answer.md").read_text()
    assert "test NLL" in answer and "the baseline (" in answer
    for name in ("table.md", "table.csv", "table.tex", "answer.md", "reliability.png", "reliability.pdf", "optuna.journal"):
        assert (out / name).stat().st_size > 100, name
    assignments = study_files.read_assignments(out)
    found = [study_files.find_trial(out, item.trial) for item in assignments]
    assert [record.status for record in found] == ["finished"] * trials
    assert len(list((out / "trials").iterdir())) == len({item.trial for item in assignments})


def test_to_its_end(shared_cluster, threads, load_study, tmp_path, capsys):
    """In this process, on groups that are threads; as a process, with groups of processes: the story below."""
    small = ["--trials", "1", "--set=epochs=4", "--set=switch_epoch=2", "--parallel-trials", "1", *SHORT[2:]]
    argv = ["--preset", "demo", "--seeds", "2", "--out", str(tmp_path / "out"), "--address", shared_cluster.address, *small]
    code = main(load_study("joint_search"), build, argv)
    out, err = capsys.readouterr()
    assert "24 epochs of 6 trials" in err
    assert_finished(tmp_path / "out", (out, err, code), 6)
    assert not ray.is_initialized()


@contextlib.contextmanager
def head(cpus):
    """A cluster of the test's own, which the command joins."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def interrupted(out, before):
    command = start(out, "--parallel-trials", "1")
    until(lambda: chaos.epochs(out) >= 10, 180)
    os.killpg(command.pid, signal.SIGINT)
    said = (*command.communicate(timeout=90), command.returncode)
    until(lambda: not left(command.pid, before), 10)
    return said


def without_its_head(out):
    """Of the cluster the head is killed. Ray itself would wait for 60 s, and end the command without a word of ours."""
    with head(1) as cluster:
        command, done = start(out, "--address", cluster.address), chaos.epochs(out)
        until(lambda: chaos.epochs(out) >= done + 10 or command.poll() is not None, 180)
        os.kill(cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
        return (*command.communicate(timeout=40), command.returncode)


def killed(out):
    command, done = start(out, "--parallel-trials", "1"), chaos.epochs(out)
    until(lambda: chaos.epochs(out) >= done + 10, 180)
    command.kill()
    command.communicate(timeout=30)
    return command.pid


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Interrupted, its head lost, killed, finished on a cluster of another size; what each run said."""
    folder, before = tmp_path_factory.mktemp("command"), rays()
    out, said = folder / "out", {}
    said["interrupted"] = interrupted(out, before)
    said["head lost"] = without_its_head(out)
    gone = killed(out)
    with head(1) as cluster:
        third = start(out, "--address", cluster.address)
        said["finished"] = (*third.communicate(timeout=240), third.returncode)
    until(lambda: not left(gone, before))  # Ray sees after half a minute that its driver was killed
    yield said, out
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(story):
    """And leaves nothing, nor does a killed driver: the story waits for that."""
    _, err, code = story[0]["interrupted"]
    assert code == 130
    assert "To continue: run the same command again." in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_lost_head_is_named(story):
    _, err, code = story[0]["head lost"]
    assert code == 1
    assert "(gcs_server, " in err and err.endswith("To continue: run the same command again.\n")
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_same_command_finishes(story):
    said, out = story
    assert_finished(out, said["finished"], 8)


@pytest.mark.slow
def test_all_that_happened_changes_no_number(story, load_study, tmp_path):
    """Nor what Optuna's journal tells of the searches: against the same flags in this process, undisturbed."""
    quiet = ["--preset", "demo", "--seeds", "2", "--out", str(tmp_path / "quiet"), "--in-process", "--trials", "2", *SHORT]
    assert main(load_study("joint_search"), lambda folder, place: "", quiet) == 0
    chaos.assert_equal(story[1], tmp_path / "quiet")
    assert chaos.history(story[1]) == chaos.history(tmp_path / "quiet")


@pytest.mark.slow
def test_once_more_trains_nothing(story, load_study, capsys):
    """And starts no Ray."""
    _, out = story
    times = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*")}
    flags = ["--preset", "demo", "--seeds", "2", "--out", str(out), "--trials", "2", *SHORT]
    assert main(load_study("joint_search"), build, flags) == 0
    text, err = capsys.readouterr()
    assert "nothing to train" in err and not ray.is_initialized()
    assert "\ndiversity, searched" in text
    assert [path for path in out.glob("trials/*/*") if times.get(path) != path.stat().st_mtime_ns] == []
