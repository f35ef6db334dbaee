"""Every field of every file of a study with every wrong value, and files cut and flipped: named, and never a traceback."""

import json
import random
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import damages
from helpers.small_study import run, trial
from helpers.synthetic_records import SCALING

from analysis import tables
from analysis.build import analyse, build
from analysis.records.signatures import signatures
from mldiv import records
from mldiv.config import from_dict
from mldiv.record_files import Damaged, RecordError
from mldiv.storage.cache import Store
from mldiv.storage.files import load as load_state
from mldiv.training.fit import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MISSING = object()
WRONG = (*damages.WRONG, 10**400, float("nan"), float("inf"), -float("inf"), MISSING)
FILES = ("study.json", "assignments.jsonl", "scaling.jsonl", "trial.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "study"
    assert run(folder, seeds=1)[0] == 0
    return folder


@pytest.fixture
def study(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "study")


def file(folder, name):
    """A file of the study or of one of its trials; the lines of its sizes are made up."""
    if name == "scaling.jsonl" and not (folder / name).exists():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in SCALING[:4]))
    return folder / name if (folder / name).exists() else trial(folder) / name


def places(value, before=()):
    """Every place in nested objects and lists; of a list the first element stands for all."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
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

    formats: of files that are written too.
    """
    try:
        made = analyse(folder)
        tables.markdown(made.study, made.table), made.answer(), signatures(made.study)
        if formats:
            build(folder, folder / "made", formats)
    except RecordError as error:
        assert "\n" not in str(error) and str(error).startswith(str(folder)), error
        return None, [str(error)]
    return {(arm, seed) for arm in made.study.arms for seed in made.study.finished(arm)}, made.study.problems


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "marked"), [*((name, True) for name in FILES), ("trial.json", False)])
def test_every_field_with_every_wrong_value(study, name, marked):
    path, counts = file(study, name), Counter()
    if not marked:
        damages.rewrite(trial(study) / "trial.json", lambda value: changed(value, ("checksum",), MISSING))
    whole = path.read_text()
    for number, document in enumerate(documents(path)):
        for place in places(document):
            for new in WRONG:
                value = changed(document, place, new)
                path.write_text(with_document(path, number, value))
                kept, problems = analysed(study)
                counts["refused" if kept is None else "named" if problems else "accepted"] += 1
                if marked and name == "trial.json" and place != ("checksum",) and value != document:
                    assert kept == {("plain", 1)} and problems, (place, new)
                path.write_text(whole)
    print(f"{name}, {'marked' if marked else 'unmarked'}: {sum(counts.values()):,} inputs, {dict(counts)}")
    assert (sum(counts.values()) > 90 and counts["refused"] + counts["named"] > counts["accepted"]) or name in (
        "study.json",
        "metrics.jsonl",
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FILES, "predictions.parquet"])
def test_files_that_are_cut_or_flipped(study, name):
    """The whole report of each: page and figures too."""
    path, draw, counts = file(study, name), random.Random(0), Counter()
    whole = path.read_bytes()
    for number in range(120):
        if number % 2:
            damages.flip(path, draw.random(), draw.randrange(8))
        else:
            damages.cut(path, draw.random())
        kept, problems = analysed(study, ("md", "csv", "tex", "html") if number % 10 < 2 else ("md",))
        counts["refused" if kept is None else "named" if problems else "accepted"] += 1
        if name == "trial.json":
            assert kept == {("plain", 1)} or json.loads(path.read_text()) == json.loads(whole), number
        path.write_bytes(whole)
    print(f"{name}: {sum(counts.values())} inputs, {dict(counts)}")


COLUMNS = {
    "None": lambda column: column.astype(object).where(column.index > 0, None),
    "NaN": lambda column: column.astype("float64").where(column.index > 0, np.nan),
    "infinite": lambda column: column.astype("float64").where(column.index > 0, np.inf),
    "huge": lambda column: column.astype("float64").where(column.index > 0, 1e300),
    "negative": lambda column: -column.astype("float64") - 1,
    "words": lambda column: column.astype(str) + "x",
    "lists": lambda column: pd.Series([[1.0]] * len(column)),
    "reversed": lambda column: column[::-1].reset_index(drop=True),
    "one": lambda column: column.where(column.index < 0, column.iloc[0]),
}


@pytest.mark.filterwarnings("ignore")
def test_every_column_of_predictions_with_every_wrong_value(study):
    path = trial(study) / "predictions.parquet"
    frame, counts = pd.read_parquet(path), Counter()
    frame["member"] = frame["member"].astype(str)
    for name in frame:
        for kind, change in {**COLUMNS, "missing": None}.items():
            if name == "member" and kind in ("NaN", "infinite", "huge", "negative"):
                continue
            made = frame.drop(columns=name) if change is None else frame.assign(**{name: change(frame[name])})
            made.attrs = {"trial": path.parent.name}
            made.to_parquet(path, index=False)
            kept, problems = analysed(study)
            told = bool(problems) or name == "image" or made[name].equals(frame[name])
            counts["told" if problems else "accepted"] += 1
            assert kept is not None
            if name in ("label", "predicted", "confidence", "label_probability", "entropy", "mutual_information"):
                assert told or kind in ("reversed", "one"), (name, kind)
    print(f"predictions.parquet: {sum(counts.values())} inputs, {dict(counts)}")


@pytest.mark.filterwarnings("ignore")
def test_a_study_goes_on_whatever_its_files_hold(trained, tmp_path):
    """Its numbers are those of before, or what is missing is named, or it says in one line why it does not."""
    draw, counts = random.Random(1), Counter()
    expected = (trained / "table.csv").read_text()
    for number in range(80):
        folder = shutil.copytree(trained, tmp_path / "study")
        path = file(folder, draw.choice((*FILES, "predictions.parquet", "checkpoint.pt", ".running.json", "optuna.journal")))
        path.touch()
        way = draw.choice(("field", "field", "flip", "cut", *damages.NO_FILES))
        if way == "field" and path.suffix in (".json", ".jsonl") and path.stat().st_size:
            place = draw.choice(list(places(document := documents(path)[0])))
            path.write_text(with_document(path, 0, changed(document, place, draw.choice(WRONG))))
        elif way in damages.NO_FILES:
            damages.NO_FILES[way](path)
        elif path.stat().st_size:
            damages.flip(path, draw.random()) if way == "flip" else damages.cut(path, draw.random())
        code, out, err = run(folder, seeds=1)
        counts[code] += 1
        said = f"{number}, {way} of {path.name}: {code}\n{out}\n{err}"
        assert code in (0, 1, 2) and "Traceback" not in out + err, said
        if code == 0:
            assert (folder / "table.csv").read_text() == expected or "Left out: " in out, said
        shutil.rmtree(folder)
    print(f"a study that goes on: {sum(counts.values())} inputs, exit codes {dict(counts)}")


class Enough(Exception):
    pass


def enough(line):
    raise Enough


@pytest.mark.filterwarnings("ignore")
def test_every_field_of_a_checkpoint_with_every_wrong_value(trained, tmp_path):
    config, counts = from_dict(records.read_trial(trial(trained)).config), Counter()
    begun = tmp_path / "begun" / config.id
    with pytest.raises(Enough):
        fit(config, begun, store=Store(tmp_path / "store"), report=enough)
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    inside = [("pair", next(iter(state["pair"]))), ("optimizer", "state"), ("optimizer", "state", 0)]
    for place in [*((name,) for name in state), *inside]:
        for new in WRONG:
            folder = shutil.copytree(begun, tmp_path / config.id, dirs_exist_ok=True)
            value = {key: dict(item) if isinstance(item, dict) else item for key, item in state.items()}
            holder = value
            for key in place[:-1]:
                holder[key] = dict(holder[key])
                holder = holder[key]
            holder.pop(place[-1]) if new is MISSING else holder.__setitem__(place[-1], new)
            torch.save(value, folder / "checkpoint.pt")
            record = fit(config, folder, store=Store(tmp_path / "store"))
            assert record.status == "finished", (place, new)
            counts["set aside" if record.notes else "accepted"] += 1
            if not record.notes:
                expected = records.read_trial(trial(trained))
                assert record.test == expected.test, (place, new)
            shutil.rmtree(folder)
    print(f"checkpoint.pt: {sum(counts.values())} inputs, {dict(counts)}")


def test_every_bit_of_a_checkpoint_that_is_turned_is_found_or_says_nothing(trained):
    data, draw = (trial(trained) / "checkpoint.pt").read_bytes(), random.Random(2)
    whole = load_state(data, torch.device("cpu"))["pair"]
    found = 0
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        try:
            state = load_state(bytes(damaged), torch.device("cpu"))["pair"]
        except Damaged:
            found += 1
        else:
            assert all(torch.equal(state[name], value) for name, value in whole.items())
    print(f"checkpoint.pt: 2,000 bits turned, {found} found, the others say nothing")
    assert found > 1500
