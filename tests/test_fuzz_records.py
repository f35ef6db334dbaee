"""Every field of every file of a study with every wrong value: named, and never a traceback."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from helpers import damages
from helpers.record_fuzz import FILES, MISSING, analysed, changed, documents, file, places, with_document, wrong
from helpers.small_study import trial

from analysis.records import predictions

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "marked"), [*((name, True) for name in FILES), ("trial.json", False)])
def test_every_field_with_every_wrong_value(study, name, marked, monkeypatch):
    known, unpack = {}, predictions._table

    def once(path, record):
        """Predictions stay as they are here."""
        if path not in known:
            known[path] = unpack(path, record)
        return known[path]

    monkeypatch.setattr(predictions, "_table", once)
    path, counts = file(study, name), Counter()
    if not marked:
        for mark in ("checksum", "left_out"):  # as mldiv 0.5.0 left it
            damages.rewrite(trial(study) / "trial.json", lambda value, mark=mark: changed(value, (mark,), MISSING))
    whole = path.read_text()
    for number, document in enumerate(documents(path)):
        for turn, place in enumerate(places(document)):
            for new in wrong(turn, 4 if marked and name == "trial.json" else 1):  # a checksum guards it
                value = changed(document, place, new)
                path.write_text(with_document(path, number, value))
                kept, problems = analysed(study)
                counts["refused" if kept is None else "named" if problems else "accepted"] += 1
                if marked and name == "trial.json" and value != document:
                    assert kept == {("plain", 1)} and problems, (place, new)
                path.write_text(whole)
    print(f"{name}, {'marked' if marked else 'unmarked'}: {sum(counts.values()):,} inputs, {dict(counts)}")
    assert (sum(counts.values()) > 60 and counts["refused"] + counts["named"] > counts["accepted"]) or name in (
        "study.json",
        "metrics.jsonl",
    )


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
            counts["told" if problems else "accepted"] += 1
            assert kept is not None
            if name in ("label", "predicted", "confidence", "label_probability", "entropy", "mutual_information"):
                assert problems or kind in ("reversed", "one"), (name, kind)
    print(f"predictions.parquet: {sum(counts.values())} inputs, {dict(counts)}")
