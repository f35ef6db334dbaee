"""What a study leaves behind: the truth from which every table, figure and resumed run is rebuilt.

A study folder holds

    study.json           question, arms, settings, selection rule, versions, commit; at the end also what was chosen
    assignments.jsonl    one line per (arm, phase, seed): which trial answers for it
    trials/<id>/         trial.json, metrics.jsonl (a line per epoch), predictions.parquet (an image and member a row),
                         probabilities.parquet (the same, of every class)
    scaling.jsonl        a size a line: time and memory of a step, where the study measures them

A trial's id is the hash of its configuration and seed without paths, so the same trial is the same everywhere, and a record
that was copied into another trial's folder is found out. Only the standard library is used here: the analysis reads these
files without torch, ray or optuna.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mldiv.records.checked_files import check_fields

SCHEMA = 3

#: A trial in one of these states is never trained again. ``failed`` is: its cause may be gone.
FINAL = frozenset({"finished", "stopped", "diverged"})
STATUSES = FINAL | {"running", "failed"}

#: Settings that are no part of any trial's identity: `spares` in their declarations, which need torch.
SPARED = frozenset({"data_root", "train_labels", "pretrained", "gradient_points", "keep_predictions"})
#: How `compile` is kept where it is not kept as it is set: as when there were no graphs, and so are identities.
KEPT_COMPILE: dict[Any, Any] = {"auto": False, "on": True}
#: What `trial_id` returns, and what the folder of a trial may be called at all.
IDENTITY, FOLDER_NAME = re.compile("[0-9a-f]{16}"), re.compile(r"\w[\w.-]*")

#: How the name of a trial begins whose predictions were given (`mldiv.add_predictions`): no hash, its settings are not known.
GIVEN = "given-"

PHASES = ("search", "repeat")

#: What a trial cost: epochs that it trained itself, that it took from the store, and of pretraining that it trained.
COSTS = ("epochs_trained", "epochs_shared", "pretraining_epochs_trained")

#: How often a comparison of no difference may come out as one, over all looks at it together.
LEVEL = 0.05

#: By metric, the smallest difference that matters between two arms, unless a study states others: in NLL, points of accuracy
#: and points of ECE, for data like CIFAR.
MARGINS = {"nll": 0.005, "accuracy": 0.3, "ece": 0.5}

#: Between which a calibration temperature is looked for; within 1 % of an end it was stopped there, and the best is not known.
TEMPERATURES = (0.05, 20.0)

#: The member that is all peers together, however many they are.
PAIR = "pair"


#: Numbers by name, and by two names, as a file holds them: None for one that was not finite, or is not defined.
Numbers = dict[str, float | None]
Scores = dict[str, Numbers]
#: The fields that hold such.
NUMBERS: dict[str, Any] = {
    "switch": Numbers, "calibration_temperature": Numbers, "validation": Scores, "test": Scores, "test_scaled": Scores,
    "uncertainty": Scores, "posterior": Scores, "importance": Scores | None, "recalibrated": Scores, "other": Scores,
    "shift": Scores, "ensembles": Scores, "generalized": Scores, "size": Numbers,
}  # fmt: skip


def at_bound(temperature: float) -> bool:
    """Return whether a fitted temperature lies within 1 % of an end of TEMPERATURES, or beyond it."""
    low, high = TEMPERATURES
    return not 1.01 * low < temperature < 0.99 * high


def members_of(peers: int) -> tuple[str, ...]:
    """Name whose predictions a trial with so many peers records: peer_1, peer_2, ..., and all of them together."""
    return (*(f"peer_{number}" for number in range(1, peers + 1)), PAIR)


def scored_by(member: str, members: Iterable[str]) -> tuple[str, ...]:
    """Say by which of ``members`` an arm is judged: by all peers together ("pair"), by each peer alone ("peers", a score is
    then their mean), or by one of them.

    Raises: KeyError for another ``member``.
    """
    members = tuple(members)
    peers = tuple(name for name in members if name != PAIR)
    return {"pair": (PAIR,), "peers": peers, **{name: (name,) for name in peers}}[member]


@dataclass
class TrialRecord:
    """``trial.json``: one trial's settings, how it ended, and its scores on validation and test data."""

    id: str
    config: dict[str, Any]
    #: The settings in ``config`` that have no part in ``id``: paths, and those that came later and are as trials were before.
    left_out: list[str] = field(default_factory=list)
    status: str = "running"
    reason: str | None = None
    epochs: int = 0
    attempts: int = 1
    seconds: float = 0.0
    validation: dict[str, dict[str, Any]] = field(default_factory=dict)
    test: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: the temperature fitted on validation data, and the test scores after dividing log-probabilities by it.
    calibration_temperature: dict[str, float] = field(default_factory=dict)
    test_scaled: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: how well its uncertainties detect its errors on test data, and images of another data set.
    uncertainty: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: How Bayesian the trial is, on validation data at its end. By member: NLL and accuracy of the mean network beside those of
    #: the samples; of a peer the median of sigma over |mu|; of all together the mutual information within peers and between.
    posterior: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: test scores after a recalibration fitted on validation data, as vector_nll.
    recalibrated: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: how well its uncertainties tell each set of other images, as cifar100/auroc_energy.
    other: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: scores on corrupted test images, all kinds together, as nll_5 at the highest severity, and of each kind at all
    #: severities together, as nll_fog (not in older records); images: of each kind.
    shift: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By number k: test scores of the first k peers together, with scaled_nll after a temperature of their own.
    ensembles: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: On test and on training images: how much the peers disagree, and how much their mean gains in NLL over one of them.
    generalized: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: What a prediction costs: parameters of all peers, floating-point operations of an image with one weight sample each.
    size: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    #: Both distances between the peers, raw, when stage two began.
    switch: dict[str, float] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COSTS, 0))
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def final(self) -> bool:
        """Whether the trial is never trained again."""
        return self.status in FINAL

    def of_other_images(self, whole: str, test: str) -> bool:
        """Tell whether it was begun with other images than those of these fingerprints: all of them, and those of the test.

        Of a trial of before, which has not the first, the second decides, or nothing.
        """
        known = self.data.get("whole_fingerprint")
        return known != whole if known else self.data.get("test_fingerprint") not in (None, test)


@dataclass(frozen=True)
class Assignment:
    """A line of ``assignments.jsonl``: ``trial`` answers for ``arm`` in ``phase`` ("search" or "repeat") with ``seed``."""

    arm: str
    phase: str
    seed: int
    trial: str


#: What a compact copy of a study's records is called (`analysis.compact`).
ARCHIVE = "records.tar.xz"

#: The settings that, with what lies at their place, decide which images a trial has and in which split.
OF_IMAGES = (
    "data", "split_seed", "validation_fraction", "train_size", "validation_size", "test_size", "test_split", "image_size",
    "train_labels_hash",
)  # fmt: skip

#: The fields of a line of ``metrics.jsonl``.
LINE = {
    "epoch": int, "stage": int, "shared": bool, "lr": float, "train": Numbers, "validation": Scores,
    "diversity": dict[str, float | Numbers | None], "seconds": float, "gradients": list[dict[str, float | Numbers | None]],
    "first_epoch": list[Numbers],
}  # fmt: skip
#: Those that not every line has.
SOMETIMES = frozenset({"gradients", "first_epoch"})


def own_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of plug-ins' kernels that are not at their defaults, by setting, of the text `kernel_own`."""
    found: dict[str, Any] = {}
    for name, _, value in (pair.partition("=") for pair in str(config.get("kernel_own", "")).split(",") if pair):
        found[f"kernel_{name}"] = value
        with suppress(ValueError):
            found[f"kernel_{name}"] = json.loads(value)
    return found


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """``study.json``: a study's question and design, the base configuration of its trials, what its searches chose.

    arms: in the order of the tables; changes: by arm, what it sets in ``settings``; compare: arms that are compared with the
    baseline; contrasts: name -> arms' weights; members: arm -> "peers", where not "pair"; samples: Optuna trials of each
    searched arm, each trained with every one of search_seeds; searched: by arm, the settings; drawn: these in the order in
    which the searches' common points draw them, a list for each time that the study grew; grown: how many seeds and arms it had
    at each report after which it grew; batch: suggestions open at once; surface: alpha's and beta's positive range, where their
    response surface is drawn; trends: by axis and effect, the size of each of its contrasts; data: the data in words;
    world_size: worker processes of a trial; fingerprint: hash of all images and labels; plugins: by name, the hash of each
    plug-in's source; plugin_files: where those that are files were; kernel_defaults: of the parameters of plug-ins' kernels, by
    setting. chosen and importance come at the study's end: by arm, the settings that its search chose, and each one's share in
    what makes a trial good. margins: by metric, the smallest difference that matters, stated before training. looks: the
    numbers of seeds at which a study that adds seeds as needed looks at its comparisons, stated before training too, none in
    any other; level: of each look's intervals, LEVEL shared out evenly over the looks.
    """

    compare: list[str]
    contrasts: dict[str, dict[str, float]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    samples: int
    search_seeds: list[int]
    searched: dict[str, list[str]]
    drawn: list[list[str]] = field(default_factory=list)
    grown: list[list[int]] = field(default_factory=list)
    batch: int = 1
    selection: str
    objectives: list[str] = field(default_factory=list)
    early_stopping: str | None = None
    surface: dict[str, list[float]] | None = None
    trends: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    data_is_subset: bool
    world_size: int
    schema: int = SCHEMA
    name: str
    question: str
    scientific: str
    preset: str
    baseline: str | None
    arms: list[str]
    changes: dict[str, dict[str, Any]]
    seeds: list[int]
    settings: dict[str, Any]
    data: str
    environment: dict[str, Any]
    chosen: dict[str, dict[str, Any]] | None = None
    importance: dict[str, dict[str, float]] | None = None
    fingerprint: str | None = None
    plugins: dict[str, str] = field(default_factory=dict)
    plugin_files: dict[str, str] = field(default_factory=dict)
    kernel_defaults: dict[str, Any] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=lambda: dict(MARGINS))
    looks: list[int] = field(default_factory=list)
    level: float = LEVEL

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of plug-ins' kernels, by setting, as the study's settings have them."""
        return self.kernel_defaults | own_parameters(self.settings)

    @property
    def has_search(self) -> bool:
        """Whether any arm was searched."""
        return self.samples > 0 and any(self.searched.values())


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A trial to train, as it travels to whoever trains it.

    folder: the place of the trial's folder; store: the place of the store that it shares with others, None for one of its own;
    store_limit: bytes; publish: epochs of its first stage that others want; bracket: the trials that it is compared with by
    early stopping, None for a repeat.
    """

    trial: str
    config: dict[str, Any]
    folder: str
    store: str | None
    store_limit: int
    publish: list[int] = field(default_factory=list)
    bracket: str | None = None

    @classmethod
    def read(cls, value: dict[str, Any]) -> "TrialTask":
        """Return the task in a dictionary, as `dataclasses.asdict` makes it.

        Raises: RecordError for missing or unknown fields, or one of a wrong type.
        """
        return parse_record(cls, value, "a trial's task")


def trial_id(config: dict[str, Any]) -> str:
    """Return the first 16 hex digits of SHA-256 over the configuration's canonical JSON."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that tell nothing of the machine: no folder of the data, and files and full paths by their last name."""
    kept = dict(settings) | ({"data_root": None} if "data_root" in settings else {})
    for name in ("train_labels", "pretrained"):
        if kept.get(name):
            kept[name] = Path(kept[name]).name
    if "/" in (sets := kept.get("ood") or ""):
        parted = [name.partition("@") for name in sets.split(",")]
        kept["ood"] = ",".join(kind + at + (Path(place).name if place[:1] == "/" else place) for kind, at, place in parted)
    return kept


#: Fields that a file must hold although a new record begins without them.
ALWAYS = frozenset({"status"})

Record = TypeVar("Record", bound=TrialRecord | StudyRecord | TrialTask)


def parse_record(kind: type[Record], value: dict[str, Any], where: str, mend: str = "") -> Record:
    """Return the record in a JSON object.

    mend: what to do about a wrong one, after a semicolon.

    Raises: Damaged, naming ``where``, for missing or unknown fields and for values of a wrong type.
    """
    known = {item.name: item for item in fields(kind)}
    needed = {name for name, item in known.items() if item.default is item.default_factory is MISSING} | ALWAYS & set(known)
    kinds = {name: NUMBERS.get(name, item.type) for name, item in known.items()}
    check_fields(value, kinds, where, needed=needed, mend=mend)
    return kind(**value)
