"""A study's results as data frames, from its records."""

import importlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import ArrayLike

from mldiv.environment.checkout import use_analysis
from mldiv.environment.extras import install_hint
from mldiv.records.contents import StudyRecord, TrialRecord
from mldiv.storage.object_store import working_copy

if TYPE_CHECKING:  # beside the package, or in a wheel: see mldiv.environment.checkout
    from matplotlib.figure import Figure

    from analysis.build import Analysis
    from analysis.records.load import StudyData
    from mldiv.datasets.splits import ImageData


def analysis(module: str) -> ModuleType:
    """Return a module of the package that makes tables of records.

    Raises: ImportError where another package of this name is imported, or what it needs is not installed.
    """
    use_analysis()
    try:
        return importlib.import_module(f"analysis.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f"a study's tables and verdicts are made by the package analysis: {install_hint(error)}") from error


@dataclass(frozen=True, eq=False)
class Results:
    """What came out of a study.

    study: its question and design, as study.json holds them. trials: a row per trial of searches and repeats: arm, phase, seed,
    trial, status, reason, epochs, seconds, and its settings as setting.lr. scores: a row per finished repeat and member
    (peer_1, ..., pair): test scores, as fractions and nats. repeats: a row per finished repeat: arm, seed, trial, and its value
    in every column of table.csv, in the units there (shift_accuracy: in percent, on corrupted images). table: a row per arm: of
    every one of these columns mean, standard error and n. comparisons: a row per metric and arm or contrast: difference to the
    baseline (or value of the contrast) in ``unit``, its interval, p, Holm's p, over how many seeds, verdict (of a contrast:
    above or below 0). answer: these in plain words. problems: what could not be read. data: sizes, classes and fingerprints of
    the images, as a trial's record has them.
    """

    study: StudyRecord
    trials: pd.DataFrame
    scores: pd.DataFrame
    repeats: pd.DataFrame
    table: pd.DataFrame
    comparisons: pd.DataFrame
    answer: str
    problems: list[str]
    data: Mapping[str, Any]

    def images(self, data_root: str | os.PathLike[str] | None = None) -> "ImageData":
        """Read the study's images in its own split, as for a method of another library.

        ``train``, ``validation`` and ``test`` of what is returned have ``images``, uint8 [N, channels, height, width], and
        ``labels``, int64 [N]. data_root: where the data set lies now; without it, where the study had it.

        Raises: DataError where it is not there; ConfigError where these are not the images that were trained on.
        """
        from mldiv.config import ConfigError, from_dict  # with torch, which results do not need
        from mldiv.training.worker_cache import dataset

        config = from_dict(self.study.settings)
        found = dataset(config if data_root is None else config.replace(data_root=os.fspath(data_root)))
        if TrialRecord("", {}, data=dict(self.data)).of_other_images(found.whole_fingerprint, found.test_fingerprint):
            raise ConfigError(
                f"{config.data}: the files there have changed since the study was trained; these are other images"
            )
        return found

    def __repr__(self) -> str:
        return f"Results({self.study.name!r}, arms={len(self.table)}, trials={len(self.trials)}, problems={len(self.problems)})"


def reliability_diagram(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str = "") -> "Figure":
    """Draw reliability diagrams of any predictions, another library's too, a panel for each name.

    predictions: by name, the probability of the predicted class and whether that is the label, [images] each. A panel says
    the ECE over 15 bins, and the mean ECE of a calibrated model with these confidences. Returns a matplotlib figure.

    Raises: ValueError for no predictions, other shapes, or confidences that are no probabilities.
    """
    return analysis("figures.reliability").plot(predictions, title)


def results(place: str | os.PathLike[str]) -> Results:
    """Read a study's folder, or its address on an object store, into data frames; nothing is written.

    Raises: RecordError when there is no study, or one that is damaged; ImportError where `analysis` is not there; OSError.
    """
    build, tables = analysis("build"), analysis("tables")
    with working_copy(os.fspath(place), fetch=False) as copy:
        copy.pull_study()
        made = build.analyse(copy.local)
        study = made.study
        return Results(
            study.header,
            pd.DataFrame(_trials(study)),
            pd.DataFrame(_scores(study)),
            pd.DataFrame(_repeats(made)),
            tables.frame(study, made.table),
            pd.DataFrame(_comparisons(made)),
            made.answer(),
            list(study.problems),
            next((record.data for record in study.records.values() if record.data), {}),
        )


def _trials(study: "StudyData") -> Iterator[dict[str, Any]]:
    found: list[tuple[str, str, int, TrialRecord]] = [
        (arm, "search", record.config["seed"], record) for arm, record in study.searched
    ]
    found += [(arm, "repeat", seed, record) for (arm, seed), record in study.records.items()]
    for arm, phase, seed, record in found:
        own = {name: getattr(record, name) for name in ("status", "reason", "epochs", "seconds")}
        settings = {f"setting.{name}": value for name, value in record.config.items()}
        yield {"arm": arm, "phase": phase, "seed": seed, "trial": record.id, **own, **settings}


def _scores(study: "StudyData") -> Iterator[dict[str, Any]]:
    for arm in study.arms:
        for seed, record in study.finished(arm).items():
            for member, scores in record.test.items():
                yield {"arm": arm, "seed": seed, "member": member, "trial": record.id, **scores}


def _repeats(made: "Analysis") -> Iterator[dict[str, Any]]:
    columns = analysis("records.columns").COLUMNS
    for arm, of_arm in made.repeats.items():
        for seed, repeat in of_arm.items():
            values = {name: column.value(repeat) for name, column in columns.items()}
            printed = {name: math.nan if value is None else columns[name].factor * value for name, value in values.items()}
            yield {"arm": arm, "seed": seed, "trial": repeat.record.id, **printed}


def _comparisons(made: "Analysis") -> Iterator[dict[str, Any]]:
    of_effects, margins = analysis("comparison.effects"), made.study.header.margins
    kinds: dict[str, Mapping[str, Mapping[str, Any]]] = {"difference": made.differences, "contrast": made.contrasts}
    for kind, by_metric in kinds.items():
        for metric, effects in by_metric.items():
            for name, effect in effects.items():
                low, high = effect.interval or (None, None)
                yield {
                    "metric": metric, "kind": kind, "name": name, "value": effect.mean, "low": low, "high": high,
                    "unit": "percentage points" if of_effects.COMPARED[metric].factor != 1 else "nats", "level": effect.level,
                    "p": effect.p, "p_holm": effect.adjusted, "seeds": effect.n,
                    "verdict": of_effects.verdict(effect, metric, margins[metric], contrast=kind == "contrast"),
                }  # fmt: skip
