"""The order, by hand: who leads, who waits for whom, what the queue says is needed. Whole plans: test_queue_simulated.py."""

from collections import defaultdict

from mldiv.config import TrialConfig
from mldiv.sweep.queue import TrialQueue
from mldiv.training.pretraining import pretraining_id

BASE = TrialConfig(epochs=6, switch_epoch=4, pretrain_epochs=2, initialization="scratch", stage_schedule="continue")


def test_the_longest_first_stage_leads_and_publishes_for_all():
    queue = TrialQueue()
    for switch, kernel in [(2, "rbf"), (0, "rbf"), (4, "rbf"), (3, "linear"), (6, "rbf"), (2, "linear")]:
        queue.add(BASE.replace(switch_epoch=switch, kernel=kernel))
    lead = queue.take()
    assert lead.config.switch_epoch == 6 and lead.publish == (2, 3, 4)
    free = []
    while (task := queue.take()) is not None:
        free.append(task.config.switch_epoch)
    assert free == [0]  # it shares nothing
    handed = defaultdict(list)
    for epochs in range(1, 7):
        queue.progress(lead.config.id, epochs)
        while (task := queue.take()) is not None:
            handed[epochs].append(task.config.switch_epoch)
    assert handed == {2: [2, 2], 3: [3], 4: [4]}


def test_equals_keep_the_order_in_which_they_came():
    queue = TrialQueue()
    configs = [BASE.replace(kernel=kernel) for kernel in ("rbf", "cosine", "linear", "laplacian")]
    for config in configs:
        queue.add(config)
    handed = [queue.take().config]
    queue.progress(handed[0].id, 4)
    handed += [queue.take().config for _ in range(3)]
    assert handed == configs


def test_nobody_waits_for_less_than_there_is():
    """While one trains a shorter prefix anew, those with a longer one to start from go on; shorter ones wait."""
    queue = TrialQueue()
    done, early, late, between = (
        BASE.replace(switch_epoch=epoch, alpha=alpha) for epoch, alpha in [(4, 1), (2, 1), (4, 2), (3, 1)]
    )
    queue.add(done)
    assert queue.take().config == done
    queue.progress(done.id, 4)
    queue.add(early)
    assert queue.take().config == early
    queue.add(late), queue.add(between)
    assert queue.take().config == late and queue.take() is None
    queue.progress(early.id, 2)
    assert queue.take().config == between


def test_a_pretraining_is_waited_for_across_first_stages():
    """Two temperatures, one pretrained network."""
    queue = TrialQueue()
    configs = [BASE.replace(temperature=value, initialization="scratch_pretrained") for value in (2.0, 3.0)]
    assert pretraining_id(configs[0], "pretrain") == pretraining_id(configs[1], "pretrain")
    for config in configs:
        queue.add(config)
    assert queue.take().config == configs[0] and queue.take() is None
    queue.progress(configs[0].id, 1)
    assert queue.take().config == configs[1]


def test_words_about_unknown_trials_are_passed_over():
    queue = TrialQueue()
    queue.progress("unknown", 3)
    queue.end("unknown")
    queue.add(BASE)
    assert queue.take().config == BASE and queue.take() is None
    queue.end(BASE.id)
    queue.end(BASE.id)
    queue.progress(BASE.id, 2)
    assert not queue.needed() and queue.take() is None
