"""Files of a study that are cut or flipped, and a study that goes on with damaged ones: named, and never a traceback."""

import json
import random
import shutil
from collections import Counter

import pytest
import torch
from helpers import damages
from helpers.record_fuzz import FILES, MISSING, PART, WRONG, analysed, changed, documents, file, places, with_document, wrong
from helpers.small_study import run, trial

from mldiv.config import from_dict
from mldiv.records import study_files
from mldiv.records.checked_files import Damaged
from mldiv.storage.cache import Store
from mldiv.storage.files import load as load_state
from mldiv.training.fit import fit

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FILES, "predictions.parquet"])
def test_files_that_are_cut_or_flipped(study, name):
    """The tables and the answer of each, of every seventh the page and its figures too."""
    path, draw, counts = file(study, name), random.Random(0), Counter()
    whole = path.read_bytes()
    for number in range(120 // PART):
        if number % 2:
            damages.flip(path, draw.random(), draw.randrange(8))
        else:
            damages.cut(path, draw.random())
        kept, problems = analysed(study, ("md", "csv", "tex", "html") if number % 7 == 0 else ("md",))
        counts["refused" if kept is None else "named" if problems else "accepted"] += 1
        if name == "trial.json":
            assert kept == {("plain", 1)} or json.loads(path.read_text()) == json.loads(whole), number
        path.write_bytes(whole)
    print(f"{name}: {sum(counts.values())} inputs, {dict(counts)}")


@pytest.mark.filterwarnings("ignore")
def test_a_study_goes_on_whatever_its_files_hold(trained, tmp_path):
    """Its numbers are those of before, or what is missing is named, or it says in one line why it does not."""
    draw, counts = random.Random(1), Counter()
    expected = (trained / "table.csv").read_text()
    for number in range(60 // PART):
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
            assert (folder / "table.csv").read_text() == expected or "Incomplete: " in out, said
        shutil.rmtree(folder)
    print(f"a study that goes on: {sum(counts.values())} inputs, exit codes {dict(counts)}")


class Enough(Exception):
    pass


def enough(line):
    raise Enough


@pytest.mark.filterwarnings("ignore")
def test_every_field_of_a_checkpoint_with_every_wrong_value(trained, tmp_path):
    config, counts = from_dict(study_files.read_trial(trial(trained)).config), Counter()
    begun = tmp_path / "begun" / config.id
    with pytest.raises(Enough):
        fit(config, begun, store=Store(tmp_path / "store"), report=enough)
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    inside = [("pair", next(iter(state["pair"]))), ("optimizer", "state"), ("optimizer", "state", 0)]
    for turn, place in enumerate([*((name,) for name in state), *inside]):
        for new in wrong(turn, 3):
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
                expected = study_files.read_trial(trial(trained))
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
