"""A plan's trials without training: what a fake trainer records, in any order."""

import math

from mldiv.records import checked_files, study_files
from mldiv.records.contents import TrialRecord
from mldiv.records.study_files import trial_folder


def score(config):
    """A smooth valley in alpha, beta and temperature."""
    return (math.log(config.alpha + 1e-3) - 1) ** 2 + (math.log(config.temperature) - 1) ** 2 + 0.1 * len(config.kernel)


def finish(folder, config, status="finished"):
    record = TrialRecord(config.id, checked_files.finite(vars(config)), status=status)
    record.validation = {"pair": {"nll": score(config)}}
    study_files.write_trial(trial_folder(folder, config.id), record)
    return record


def ask(plan):
    """All trials that can be had, each free to start at once."""
    opened = []
    while (task := plan.ask()) is not None:
        opened.append(task.config)
        plan.progress(task.config.id, task.config.epochs)
    return opened


def train_all(plan, folder, order=None, limit=10**6):
    """Train the plan with a fake trainer; ``order`` shuffles which of the open trials ends first."""
    opened, asked = [], []
    while len(asked) < limit:
        while (task := plan.ask()) is not None:
            opened.append(task.config)
            asked.append(task.config)
        if not opened:
            break
        config = opened.pop(order.randrange(len(opened)) if order else 0)
        plan.tell(config.id, finish(folder, config))
    return asked
