"""What the fuzz of records changes in the files of a study, and what the analysis then says."""

import json
import os

from analysis import tables
from analysis.build import analyse, deliver
from analysis.records.load import load
from analysis.records.signatures import signatures
from helpers.small_study import trial
from helpers.synthetic_records import SCALING
from mldiv.records.checked_files import RecordError

MISSING = object()
#: Values of every type that a field may be wrong by; of the types with several each place meets the next one.
TYPES = (
    (None,), (True,), (3, -5, 10**30, 10**400), (0.5, -0.5, float("nan"), float("inf"), -float("inf")), ("x", ""), ([], [None]),
    ({}, {"x": {}}), (MISSING,),
)  # fmt: skip
WRONG = tuple(value for values in TYPES for value in values)
WHOLE = os.environ.get("MLDIV_FUZZ") == "whole"
#: Which part is tried of what repeats itself: bytes that are cut or flipped, what a checksum guards. MLDIV_FUZZ=whole: all.
PART = 1 if WHOLE else 6
FILES = ("study.json", "assignments.jsonl", "scaling.jsonl", "trial.json", "metrics.jsonl")


def wrong(turn, part=1):
    """The wrong values that the place of this number meets: one of every type; part: of so many types one."""
    if WHOLE:
        return list(WRONG)
    return [values[turn // part % len(values)] for values in TYPES[turn % part :: part]]


def file(folder, name):
    """A file of the study or of one of its trials; the lines of its sizes are made up."""
    if name == "scaling.jsonl" and not (folder / name).exists():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in SCALING[:4]))
    return folder / name if (folder / name).exists() else trial(folder) / name


def places(value, before=()):
    """Every place in nested objects and lists; of a list the first element, of scores by name the first two stand for all."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if isinstance(value, list):
        inside = inside[:1]
    elif isinstance(value, dict) and all(isinstance(item, float) for item in value.values()):
        inside = inside[:2]
    for key, item in inside:
        yield (*before, key)
        yield from places(item, (*before, key))


def changed(value, place, new):
    value = json.loads(json.dumps(value))
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    if new is MISSING:
        del inside[place[-1]]
    else:
        inside[place[-1]] = new
    return value


def documents(path):
    """The JSON values of a file, its first two lines of many."""
    lines = path.read_text().splitlines()
    return [json.loads(path.read_text())] if path.suffix == ".json" else [json.loads(line) for line in lines[:2]]


def with_document(path, number, value):
    if path.suffix == ".json":
        return json.dumps(value)
    lines = path.read_text().splitlines()
    return "".join(f"{line}\n" for line in [*lines[:number], json.dumps(value), *lines[number + 1 :]])


def analysed(folder, formats=()):
    """What the analysis says: the repeats that enter, and the problems; None and the one line where it refuses the study.

    formats: of files that are written too. What the reading of the files names is not looked at further without them.
    """
    try:
        study = load(folder)
        finished = {(arm, seed) for arm in study.arms for seed, record in study.finished(arm).items() if study.curve(record.id)}
        if study.problems and not formats:
            return finished, study.problems
        made = analyse(folder)
        tables.markdown(made.study, made.table), made.answer(), signatures(made.study)
        if formats:
            deliver(made, folder / "made", formats)
    except RecordError as error:
        assert "\n" not in str(error) and str(error).startswith(str(folder)), error
        return None, [str(error)]
    return {(arm, seed) for arm in made.study.arms for seed in made.study.finished(arm)}, made.study.problems
