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
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from mldiv.environment.checkout import CARRIED
from mldiv.record_files import Damaged, RecordError, check_fields, finite, read_json, read_lines, write_atomically

SCHEMA = 3

ROOT = Path(__file__).resolve().parent.parent

#: A trial in one of these states is never trained again. ``failed`` is: its cause may be gone.
FINAL = frozenset({"finished", "stopped", "diverged"})
STATUSES = FINAL | {"running", "failed"}

#: Settings that are no part of any trial's identity: `spares` in their declarations, which need torch.
SPARED = frozenset({"data_root", "train_labels", "pretrained", "gradient_points", "keep_predictions"})
#: How `compile` is kept where it is not kept as it is set: as when there were no graphs, and so are identities.
KEPT_COMPILE: dict[Any, Any] = {"auto": False, "on": True}
#: What `trial_id` returns, and what the folder of a trial may be called at all.
IDENTITY, FOLDER_NAME = re.compile("[0-9a-f]{16}"), re.compile(r"\w[\w.-]*")

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
    #: By member: scores on corrupted test images, all kinds together, as nll_5 at the highest severity; images: of each kind.
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
    baseline; contrasts: name -> arms' weights; members: arm -> "peers", where not "pair"; samples: Optuna trials of
    each searched arm, each trained with every one of search_seeds; searched: by arm, the settings; drawn: these in the order in
    which the searches' common points draw them, a list for each time that the study grew; grown: how many seeds and arms it had
    at each report after which it grew; batch: suggestions open at
    once; surface: alpha's and beta's positive range, where their response surface is drawn; trends: by axis and
    effect, the size of each of its contrasts; data: the data in words;
    world_size: worker processes of a trial; fingerprint: hash of all images and labels; plugins: by name, the hash of each
    plug-in's source; plugin_files: where those that are files were; kernel_defaults: of the parameters of plug-ins' kernels, by
    setting. chosen and importance come at the study's end: by arm, the
    settings that its search chose, and each one's share in what makes a trial good. margins: by metric, the smallest difference
    that matters, stated before training. looks: the numbers of seeds at which a study that adds seeds as needed looks at its
    comparisons, stated before training too, none in any other; level: of each look's intervals, LEVEL shared out evenly over
    the looks.
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
        return _record(cls, value, "a trial's task")


@lru_cache
def commit() -> str:
    """Return the checkout's short commit, with a note when it has uncommitted changes; "unknown" where mldiv is in none."""
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "--short", "HEAD"]
        top, name = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
        if Path(top) != ROOT:  # installed inside somebody's repository
            return "unknown"
        changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True)
        return name + (" (with uncommitted changes)" if changed.stdout.strip() else "")
    return "unknown"


@lru_cache
def code() -> str:
    """Return the first 12 hex digits of SHA-256 over the package's sources, which say more than a commit does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if path.is_relative_to(CARRIED):  # a wheel's is as its checkout's
            continue
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


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


def trial_folder(study: Path, trial: str) -> Path:
    """Return the trial's folder in a study's."""
    return Path(study) / "trials" / trial


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


#: What to do about a damaged file.
MEND = {
    "study.json": "remove it and run the study's command again, which writes it anew and keeps every trial",
    "trial.json": "run the study's command again, which sets it aside and goes on with this trial from its checkpoint",
}

#: Fields that a file must hold although a new record begins without them.
ALWAYS = frozenset({"status"})

Record = TypeVar("Record", bound=TrialRecord | StudyRecord | TrialTask)


def _record(kind: type[Record], value: dict[str, Any], where: str, mend: str = "") -> Record:
    """Make a record of a JSON object.

    Raises: Damaged, naming ``where``, for missing or unknown fields and for values of a wrong type.
    """
    known = {item.name: item for item in fields(kind)}
    needed = {name for name, item in known.items() if item.default is item.default_factory is MISSING} | ALWAYS & set(known)
    kinds = {name: NUMBERS.get(name, item.type) for name, item in known.items()}
    check_fields(value, kinds, where, needed=needed, mend=mend)
    return kind(**value)


def _check_schema(value: dict[str, Any], path: Path) -> None:
    if (schema := value.get("schema")) != SCHEMA:
        raise RecordError(
            f"{path}: schema version {schema!r:.80}, this mldiv reads {SCHEMA}; take the version that wrote it, or train anew "
            "in another folder"
        )


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write ``study.json``; what is not known yet, or what most studies have not, is left out."""
    later: dict[str, Any] = {"chosen": None, "importance": None, "fingerprint": None, "drawn": [], "looks": [], "level": LEVEL}
    later |= {"grown": [], "plugins": {}, "plugin_files": {}, "kernel_defaults": {}, "trends": {}}
    write_json(folder / "study.json", {name: value for name, value in asdict(record).items()
                                       if name not in later or value != later[name]})  # fmt: skip


def read_study(folder: Path) -> StudyRecord:
    """Read the study in ``folder``.

    Raises: RecordError, naming the file and what to do, when it is missing, damaged or of another schema version.
    """
    path, mend = folder / "study.json", f"; {MEND['study.json']}"
    value = read_json(path, mend)
    _check_schema(value, path)
    return _record(StudyRecord, value, str(path), mend)


def write_trial(folder: Path, record: TrialRecord) -> None:
    """Write ``trial.json``, with a checksum of all that it says."""
    value = finite(asdict(record))
    write_json(folder / "trial.json", value | {"checksum": trial_id(value)})


def read_trial(folder: Path) -> TrialRecord:
    """Read the trial in ``folder``. Records of mldiv 0.5.0 have no checksum, nor the field ``left_out``.

    Raises: RecordError when it is missing, cannot be read or is of another schema version; Damaged when it does not fit its
    checksum, holds unknown fields or states, or is another trial's.
    """
    path, mend = folder / "trial.json", f"; {MEND['trial.json']}"
    value = read_json(path, mend)
    checksum = value.pop("checksum", None)
    if checksum is None and "left_out" in value:
        raise Damaged(f"{path}: its checksum is missing{mend}")
    if checksum is not None and checksum != trial_id(value):
        raise Damaged(f"{path}: its checksum does not fit its content{mend}")
    _check_schema(value, path)
    record = _record(TrialRecord, value, str(path), mend)
    if why := _contradiction(record, folder.name):
        raise Damaged(f"{path}: {why}{mend}")
    record.cost = dict.fromkeys(COSTS, 0) | record.cost
    return record


def _contradiction(record: TrialRecord, folder: str) -> str | None:
    """Say why a record cannot be that of the trial in a folder of this name; None where it can."""
    if record.id != folder and IDENTITY.fullmatch(folder):
        return f"the record of another trial, {record.id!r:.80}"
    if record.status not in STATUSES:
        return f"unknown status {record.status!r:.80}, expected one of {', '.join(sorted(STATUSES))}"
    if not record.final or not IDENTITY.fullmatch(record.id):
        return None
    known = {name: value for name, value in record.config.items() if name not in record.left_out}
    return None if not record.left_out or trial_id(known) == record.id else "its config is another trial's"


def failed_trial(folder: Path, task: TrialTask, reason: str) -> TrialRecord:
    """Return the trial's record as it stands in ``folder``, or a new one where it cannot be read, marked as failed."""
    try:
        record = read_trial(folder)
    except RecordError:
        record = TrialRecord(task.trial, task.config)
    record.status, record.reason = "failed", reason
    return record


def find_trial(study: Path, trial: str) -> TrialRecord | None:
    """Read the record of ``trial`` in a study folder; None when it has none yet, or a damaged one, which is trained again."""
    folder = trial_folder(study, trial)
    with suppress(Damaged):
        return read_trial(folder) if os.path.lexists(folder / "trial.json") else None
    return None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and push it to the disk.

    Raises: OSError; for a link at ``path`` too, which may lead anywhere.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(opened, "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def epoch_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ``metrics.jsonl``, one for each epoch from the first on; none when there is no file.

    Raises: Damaged, naming file and line, at one that is cut, of wrong types, or of another epoch.
    """
    for number, line in enumerate(read_lines(path)):
        check_line(line, number, f"{path}, line {number + 1}")
        yield line


def check_line(line: Any, epoch: int, where: str) -> None:
    """Look at a line of ``metrics.jsonl``. Raises: Damaged, naming ``where``, for one that is not the line of this epoch."""
    check_fields(line if isinstance(line, dict) else {}, LINE, where, needed=LINE.keys() - SOMETIMES)
    if line["epoch"] != epoch or line["stage"] not in (1, 2):
        raise Damaged(f"{where}: epoch {line['epoch']}, stage {line['stage']}, where epoch {epoch} was expected")
    if any(isinstance(part, dict) is (name == "at") for point in line.get("gradients", []) for name, part in point.items()):
        raise Damaged(f"{where}: gradients that cannot be")


def keep_epochs(path: Path, epochs: int, extra: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Drop every line of epoch ``epochs`` and later, and all from a half-written one on: what a resumed run writes anew.

    extra: lines that then follow. Returns the lines that the file holds now.
    """
    kept = []
    with suppress(Damaged):
        for line in read_lines(path):
            if isinstance(epoch := line.get("epoch"), int) and epoch < epochs:
                kept.append(line)
    kept += extra or []
    if os.path.lexists(path) or kept:
        write_atomically(path, "".join(json.dumps(finite(value), allow_nan=False) + "\n" for value in kept))
    return kept


def write_assignments(study: Path, assignments: list[Assignment]) -> None:
    """Write ``assignments.jsonl`` into the study's folder."""
    lines = [json.dumps(asdict(item)) + "\n" for item in assignments]
    write_atomically(Path(study) / "assignments.jsonl", "".join(lines))


def read_assignments(study: Path, problems: list[str] | None = None) -> list[Assignment]:
    """Read ``assignments.jsonl`` in the study's folder; nothing where there is none.

    problems: takes what is wrong with lines, which are then left out.

    Raises: RecordError; Damaged for a wrong line where ``problems`` is not given.
    """
    kinds = {item.name: item.type for item in fields(Assignment)}

    def check(line: dict[str, Any], where: str) -> None:
        check_fields(line, kinds, where)
        if line["phase"] not in PHASES:
            raise Damaged(f"{where}: phase = {line['phase']!r:.80}: expected one of {', '.join(PHASES)}")
        if not FOLDER_NAME.fullmatch(line["trial"]):
            raise Damaged(f"{where}: trial = {line['trial']!r:.80}: expected the name of a folder in trials")

    return [Assignment(**line) for line in read_lines(Path(study) / "assignments.jsonl", problems, check)]
