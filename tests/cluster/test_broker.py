import asyncio
from itertools import islice
from types import SimpleNamespace

import pytest
import ray

from mldiv.cluster import broker as broker_module
from mldiv.cluster import worker_groups
from mldiv.cluster.broker import END, Broker, Outcome
from mldiv.records.contents import TrialRecord, TrialTask
from mldiv.training.resume import StudyOver


def task(trial):
    return TrialTask(trial=trial, config={}, folder=f"trials/{trial}", store=None, store_limit=0)


def play(scene):
    return asyncio.run(asyncio.wait_for(scene, 10))


def test_a_trial_goes_through():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        assert await broker.next("g", 1, 1) == task("t")
        assert await broker.report("t", {"epoch": 0}) is False
        assert await broker.poll("t", 0, 1) == ([{"epoch": 0}], None)
        assert await broker.poll("t", 1, 0.01) == ([], None)
        await broker.finish("g", "t", Outcome("finished"))
        assert await broker.poll("t", 1, 1) == ([], Outcome("finished"))
        assert await broker.next("g", 1, 0.01) is None
        assert not broker.trials

    play(scene())


def test_news_wakes_who_waits():
    async def scene():
        broker = Broker()
        group = asyncio.create_task(broker.next("g", 1, 5))
        await asyncio.sleep(0.01)
        await broker.submit(task("t"))
        assert await group == task("t")
        client = asyncio.create_task(broker.poll("t", 0, 5))
        await asyncio.sleep(0.01)
        await broker.report("t", {"epoch": 0})
        assert (await client)[0] == [{"epoch": 0}]

    play(scene())


def test_an_early_stop_is_the_answer_to_a_report():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        assert await broker.report("t", {}) is False
        await broker.stop("t")
        assert await broker.report("t", {}) is True
        await broker.stop("unknown")

    play(scene())


def test_a_stopped_trial_is_not_started():
    async def scene():
        broker = Broker()
        await broker.submit(task("a"))
        await broker.submit(task("b"))
        await broker.stop("a")
        assert await broker.next("g", 1, 1) == task("b")

    play(scene())


def test_a_restarted_group_is_handed_its_trial_again_and_then_it_fails(monkeypatch):
    monkeypatch.setattr(broker_module, "ATTEMPTS", 2)

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.submit(task("u"))
        assert await broker.next("g", 1, 1) == await broker.next("g", 2, 1) == task("t")
        assert (await broker.state())["pids"] == {"g": [1, 2]}
        assert await broker.next("g", 3, 1) is None
        _, outcome = await broker.poll("t", 0, 1)
        assert outcome == Outcome("failed", "its worker group died 2 times without an epoch in between")
        assert await broker.next("g", 3, 1) == task("u")

    play(scene())


def test_a_trial_that_gets_on_is_handed_out_again_and_again(monkeypatch):
    monkeypatch.setattr(broker_module, "ATTEMPTS", 2)

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        for epoch in range(5):
            assert await broker.next("g", epoch, 1) == task("t")
            await broker.report("t", {"epoch": epoch})
        assert [await broker.next("g", 9, 1) for _ in range(3)] == [task("t"), task("t"), None]

    play(scene())


def test_a_lost_groups_trial_goes_to_another_first():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await broker.submit(task("u"))
        assert await broker.placed("g", "where it was first") is None
        assert await broker.placed("g", "where it was") == "where it was first"
        assert await broker.placed("g", "where it was") is None
        assert await broker.lost("g") == "where it was"
        assert await broker.lost("g") is None
        assert await broker.next("h", 2, 1) == task("t")

    play(scene())


def test_nobody_trains_for_a_silent_client(monkeypatch):
    monkeypatch.setattr(broker_module, "SILENCE_SECONDS", 0.05)

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.submit(task("u"))
        await broker.next("g", 1, 1)
        await asyncio.sleep(0.1)
        assert await broker.report("t", {}) is None
        await broker.finish("g", "t", Outcome("failed"))
        assert await broker.next("g", 1, 0.01) is None
        await broker.submit(task("u"))
        assert await broker.next("g", 1, 1) == task("u")

    play(scene())


def test_a_client_that_was_silent_has_its_trial_go_on(monkeypatch):
    """Its driver was suspended for longer than that, say: the trial is neither stopped for good nor lost."""
    monkeypatch.setattr(broker_module, "SILENCE_SECONDS", 0.05)

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await asyncio.sleep(0.1)
        assert await broker.report("t", {"epoch": 0}) is None
        assert await broker.next("g", 1, 0.01) is None
        assert await broker.poll("t", 0, 0.01) == ([{"epoch": 0}], None)
        assert await broker.next("g", 1, 0.01) == task("t")
        assert await broker.report("t", {"epoch": 1}) is False
        await asyncio.sleep(0.1)
        await broker.stop("t")
        assert await broker.report("t", {}) is True, "Tune has stopped it, for which its client is gone"

    play(scene())


def test_a_trial_that_is_stopped_in_no_line_is_under_way_no_longer(monkeypatch):
    """Its driver was suspended, and then stops it at an epoch of before: nobody will take it or poll for it again."""
    monkeypatch.setattr(broker_module, "SILENCE_SECONDS", 0.05)

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await asyncio.sleep(0.1)
        assert await broker.report("t", {}) is None
        assert await broker.under_way("t"), "its client may come back"
        await broker.stop("t")
        assert not await broker.under_way("t")

    play(scene())


def test_a_restarted_client_joins_its_trial():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await broker.report("t", {"epoch": 0})
        await broker.stop("t")
        await broker.submit(task("t"))
        assert await broker.report("t", {"epoch": 1}) is False
        assert len((await broker.poll("t", 0, 1))[0]) == 2
        assert await broker.next("h", 2, 0.01) is None

    play(scene())


def test_only_the_first_outcome_counts():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await broker.finish("g", "t", Outcome("failed"))
        await broker.finish("g", "t", Outcome("finished"))
        assert (await broker.poll("t", 0, 1))[1] == Outcome("failed")

    play(scene())


def test_closing_ends_groups_and_clients():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        client = asyncio.create_task(broker.poll("t", 0, 5))
        await asyncio.sleep(0.01)
        await broker.close("over")
        assert (await client)[1] == Outcome("interrupted", "over")
        assert await broker.next("g", 1, 5) == END

    play(scene())


def test_what_trains_when_the_study_ends_is_left_as_it_is():
    """But what has been stopped is told so, and what ends then is no error."""

    async def scene():
        broker = Broker()
        for place in "tuv":
            await broker.submit(task(place))
            await broker.next(f"group of {place}", 1, 1)
        await broker.stop("u")
        await broker.died("another", 0, "PluginError: no such kernel", True)
        for trial in "tuv":
            assert (await broker.poll(trial, 0, 0.01))[1] == Outcome("interrupted", "PluginError: no such kernel")
        assert await broker.report("t", {}) is None and await broker.report("u", {}) is True
        await broker.finish("group of v", "v", Outcome("finished"))
        assert await broker.report("unknown", {}) is None

    play(scene())


@pytest.mark.parametrize("trials", [500])
def test_nothing_is_kept_of_finished_trials(trials):
    async def scene():
        broker = Broker()
        for index in range(trials):
            await broker.submit(task(str(index)))
            await broker.next("g", 1, 1)
            await broker.report(str(index), {})
            await broker.finish("g", str(index), Outcome("finished"))
            await broker.poll(str(index), 0, 1)
        assert not broker.trials and not broker.waiting and not broker.holding

    play(scene())


def test_nothing_is_kept_of_a_trial_that_was_stopped():
    """Tune has ended its client, which will not poll for its end."""

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.next("g", 1, 1)
        await broker.report("t", {})
        await broker.stop("t")
        assert await broker.under_way("t")
        assert await broker.report("t", {}) is True
        await broker.finish("g", "t", Outcome("stopped"))
        assert not await broker.under_way("t")
        assert not broker.trials and not broker.waiting and not broker.holding

    play(scene())


def test_a_surplus_group_ends_when_nothing_waits_for_it():
    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        await broker.retire(1)
        assert await broker.next("g", 1, 1) == task("t")
        assert await broker.next("h", 2, 1) == END
        assert await broker.next("i", 3, 0.01) is None
        await broker.retire(1)
        await broker.retire(0)
        assert await broker.next("i", 3, 0.01) is None

    play(scene())


def test_the_last_words_of_a_group_that_dies_too_often(monkeypatch):
    """They are the reason; of another trial's deaths nothing is said."""
    monkeypatch.setattr(broker_module, "ATTEMPTS", 2)

    async def scene():
        broker = Broker()
        for trial in ("t", "u"):
            await broker.submit(task(trial))
        assert await broker.next("g", 1, 1) == task("t")
        assert await broker.died("g", 0, "RuntimeError: no memory", False)
        assert await broker.next("g", 2, 1) == task("t")
        assert await broker.next("g", 3, 1) is None
        _, outcome = await broker.poll("t", 0, 1)
        reason = "its worker group died 2 times without an epoch in between"
        assert outcome == Outcome("failed", f"{reason}; the last time: RuntimeError: no memory")
        for pid in (4, 5):
            assert await broker.next("g", pid, 1) == task("u")
        assert await broker.next("g", 6, 1) is None
        assert (await broker.poll("u", 0, 1))[1] == Outcome("failed", reason)

    play(scene())


def test_a_worker_that_cannot_begin_ends_the_study_with_its_reason():
    """At its first death where starting anew cannot help: whoever waits hears it, and no worker begins again."""

    async def scene():
        broker = Broker()
        await broker.submit(task("t"))
        client = asyncio.create_task(broker.poll("t", 0, 5))
        await asyncio.sleep(0.01)
        assert not await broker.over("g", 0)
        assert not await broker.died("g", 0, "ImportError: no module named 'x'", True)
        assert await client == ([], Outcome("interrupted", "ImportError: no module named 'x'"))
        assert await broker.over("g", 0) and await broker.over("other", 0)
        assert await broker.given_up("g") is None

    play(scene())


def test_a_group_whose_workers_die_before_they_ask_is_given_up(monkeypatch):
    """Each rank's deaths count by themselves, from the last time that the group asked for work; the other groups go on."""
    monkeypatch.setattr(broker_module, "ATTEMPTS", 2)

    async def scene():
        broker = Broker()
        assert not await broker.over("g", 0) and await broker.died("g", 0, "first", False)
        await broker.next("g", 1, 0.01)
        assert not await broker.over("g", 0) and await broker.died("g", 0, "again", False)
        assert not await broker.over("g", 1) and await broker.died("g", 1, "the other rank", False)
        assert await broker.given_up("g") is None
        assert not await broker.over("g", 0) and not await broker.died("g", 0, "no such device", False)
        assert not await broker.over("g", 1)
        assert await broker.over("g", 0) and await broker.given_up("g") == "no such device"
        assert not await broker.over("other", 0) and await broker.given_up("other") is None

    play(scene())


def test_a_group_whose_workers_die_without_a_word_is_given_up():
    """Before they ask for work, as often as with an error: a plug-in's library may end the process."""

    async def scene():
        broker = Broker()
        assert not await broker.over("g", 0)
        await broker.next("g", 1, 0.01)
        for _ in range(broker_module.ATTEMPTS):
            assert await broker.given_up("g") is None
            assert not await broker.over("g", 0) and not await broker.over("g", 1)
        assert await broker.over("g", 0) and await broker.over("g", 1)
        assert await broker.given_up("g") == broker_module.SILENT

    play(scene())


def test_a_group_of_several_places_holds_as_many_trials():
    """Each place has its own; the last one that is idle is told that the study needs it no more."""

    async def scene():
        broker = Broker()
        a, b, c = broker_module.places("g", 3)
        for trial in "xyz":
            await broker.submit(task(trial))
        assert [await broker.next(place, 1, 0) for place in (a, b)] == [task("x"), task("y")]
        assert await broker.next(a, 1, 0) == task("x")
        await broker.finish(a, "y", Outcome("finished"))
        assert broker.trials["y"].outcome is None, "of another place"
        await broker.finish(b, "y", Outcome("finished"))
        assert await broker.next(b, 1, 0) == task("z")
        await broker.retire(1)
        assert await broker.next(c, 1, 0) is None, "the group still trains"
        assert await broker.held("g") == [a, b]
        await broker.finish(a, "x", Outcome("finished"))
        await broker.finish(b, "z", Outcome("finished"))
        assert await broker.next(c, 1, 0) == END
        assert (await broker.state())["pids"] == {}

    play(scene())


def test_a_group_with_work_leaves_trials_to_those_without():
    async def scene():
        broker = Broker()
        first, second = (broker_module.places(group, 2) for group in ("g", "h"))
        assert await broker.next(second[0], 2, 0) is None
        for trial in "xyz":
            await broker.submit(task(trial))
        assert await broker.next(first[0], 1, 0) == task("x")
        assert await broker.next(first[1], 1, 0) == task("y"), "of two that wait"
        assert await broker.next(second[0], 2, 0) == task("z")
        await broker.submit(task("last"))
        await broker.finish(second[0], "z", Outcome("finished"))
        await broker.finish(first[1], "y", Outcome("finished"))
        assert await broker.next(first[1], 1, 0) is None
        assert await broker.next(second[1], 2, 0) == task("last")

    play(scene())


def test_all_that_a_lost_group_held_is_for_the_next_one():
    async def scene():
        broker = Broker()
        for trial in "xyz":
            await broker.submit(task(trial))
        for place in broker_module.places("g", 2):
            await broker.next(place, 1, 0)
        await broker.lost("g")
        assert {(await broker.next(place, 2, 0)).trial for place in broker_module.places("h", 2)} == {"x", "y"}
        assert await broker.held("g") == []

    play(scene())


class Actor:
    """A broker as Ray's actor: every method with a ``remote``."""

    def __init__(self, broker):
        self.broker = broker

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.broker, name))


def test_a_trial_left_in_a_lane_goes_on_in_its_place(monkeypatch):
    """Of two lanes' trials one ends, and the other is left by both, as where the broker is not reached for a moment."""
    asked, broker = [], Broker()

    def train(ask, end, most):
        asked.append([given[0] for given in islice(iter(ask, None), most)])
        for name in asked[-1][:1]:
            end(name, TrialRecord("t", {}, status="finished"))
        raise StudyOver

    with asyncio.Runner() as runner:
        monkeypatch.setattr(worker_groups, "ray", SimpleNamespace(get=runner.run, exceptions=ray.exceptions))
        monkeypatch.setattr(worker_groups, "attempting", lambda task, **given: None)
        monkeypatch.setattr(worker_groups, "train_lanes", train)
        monkeypatch.setattr(worker_groups, "WAIT_SECONDS", 0.01)
        for name in ("first", "left"):
            runner.run(broker.submit(task(name)))
        for _ in range(2):
            worker_groups._train_side_by_side(Actor(broker), "g", SimpleNamespace(lanes=2))
    assert asked == [[("g/1", "first"), ("g/0", "left")], [("g/0", "left")]]
