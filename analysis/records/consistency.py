"""Say what in a study's records cannot be, or does not belong together."""

from pathlib import Path
from typing import Any

from mldiv.records import contents
from mldiv.records.checked_files import Damaged, check_fields
from mldiv.records.contents import Assignment, StudyRecord, TrialRecord, members_of, own_parameters
from mldiv.records.study_files import MEND

#: Settings of the study that its tables name.
SETTINGS = {"arch": str, "width": float, "epochs": int, "batch_size": int, "test_samples": int, "data": str}
#: Settings of a trial that are looked at by name; records of mldiv 0.5.0 do not say of what their identity is made.
CONFIG = {"epochs": int, "seed": int, "alpha": float, "beta": float, "peers": int}
#: Fields that a line of scaling.jsonl has at least, and what it says of a step's seconds and bytes.
SIZE = {"arch": str, "width": float, "batch_size": int, "weights": int, "seconds": dict[str, float], "bytes": dict[str, float]}
#: Of a level that was divided by a number of looks.
ROUNDING = 1e-9
STAGES = frozenset({"stage_1", "stage_2"})
#: Scores that a finished trial has of every member, on validation and test data.
SCORED = frozenset({"accuracy", "nll"})


def check_header(header: StudyRecord, path: Path) -> None:
    """Raise Damaged, naming the file, for a study whose parts do not fit each other."""
    mend = f"; {MEND['study.json']}"
    check_fields(_part(header.settings, SETTINGS), SETTINGS, f"{path}: settings", mend=mend)
    named = {
        *header.compare,
        *([header.baseline] if header.baseline else []),
        *(arm for of in header.contrasts.values() for arm in of),
    }
    wrong = {
        f"arms = {header.arms}": not header.arms or len(set(header.arms)) < len(header.arms),
        f"seeds = {header.seeds}": len(set(header.seeds)) < len(header.seeds),
        f"baseline, compare and contrasts name {sorted(named - set(header.arms))}, which are no arms": named - set(header.arms),
        f"contrasts = {header.contrasts}": not all(header.contrasts.values()),
        f"members = {header.members}": set(header.members.values()) - {"pair", "peers"},
        f"surface = {header.surface}": not _is_surface(header.surface),
        f"margins = {header.margins}": set(header.margins) != set(contents.MARGINS) or not min(header.margins.values()) > 0,
        f"looks = {header.looks}, level = {header.level}, seeds = {header.seeds}": not _are_looks(header),
        f"samples = {header.samples}": header.samples < 0,
        f"world_size = {header.world_size}": header.world_size < 1,
    }
    for words in (words for words, found in wrong.items() if found):
        raise Damaged(f"{path}: {words:.200}{mend}")


def _part(value: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name in kinds}


def _is_surface(surface: dict[str, list[float]] | None) -> bool:
    ends = [] if surface is None else [surface.get("alpha", []), surface.get("beta", [])]
    return all(len(pair) == 2 and 0 < pair[0] < pair[1] for pair in ends)


def _are_looks(header: StudyRecord) -> bool:
    """Whether a study has looked when and at the level that it says; one that does not add seeds looks once."""
    looks = header.looks
    if abs(header.level * max(len(looks), 1) - contents.LEVEL) > ROUNDING:
        return False
    return not looks or (looks == sorted(set(looks)) and looks[0] > 0 and len(header.seeds) in looks)


def check_size(line: dict[str, Any], where: str) -> None:
    """Raise Damaged, naming ``where``, for a line of scaling.jsonl that cannot be."""
    check_fields(_part(line, SIZE), SIZE, where)
    positive = [line["width"], line["batch_size"], line["weights"], *line["seconds"].values()]
    if min(positive) <= 0 or not line["seconds"].keys() >= STAGES or not line["bytes"].keys() >= STAGES | {"state"}:
        raise Damaged(f"{where}: sizes and seconds that cannot be, or a stage is missing")


def why_not(header: StudyRecord, item: Assignment, record: TrialRecord) -> str | None:
    """Say why a record cannot be that of an assignment; None where it can."""
    if item.arm not in header.arms:
        return f"assigned to {item.arm!r:.80}, which is no arm"
    if record.id != item.trial:
        return f"the record of another trial, {record.id!r:.80}"
    whole = record.data.get("whole_fingerprint", header.fingerprint)
    same_cut = all(record.config.get(name) == header.settings.get(name) for name in contents.OF_IMAGES)
    if header.fingerprint is not None and whole != header.fingerprint and same_cut:
        return f"of other images ({whole!r:.40}) than the study's ({header.fingerprint!r})"
    if record.status == "finished":
        validated = [record.validation] if record.data.get("validation") != 0 else []
        for scores in (*validated, record.test if item.phase == "repeat" else record.validation):
            if "pair" not in scores or not all(of_member.keys() >= SCORED for of_member in scores.values()):
                return "finished without scores"
    if not contents.IDENTITY.fullmatch(record.id):
        return None
    return _other_end(record) or _other_settings(header, item, record)


def _other_end(record: TrialRecord) -> str | None:
    """Say where a trial's end is not that of its own configuration."""
    try:
        check_fields(_part({"peers": 2} | record.config, CONFIG), CONFIG, "config")
    except Damaged as error:
        return str(error)
    whole, peers = record.config["epochs"], record.config.get("peers", 2)
    if not 0 <= record.epochs <= whole or (record.status == "finished" and record.epochs != whole):
        return f"{record.status} after {record.epochs} of {whole} epochs"
    if record.status == "finished" and (peers + 1 != len(record.test) or set(record.test) != set(members_of(peers))):
        return f"scores of {', '.join(record.test)}"
    return None


def _other_settings(header: StudyRecord, item: Assignment, record: TrialRecord) -> str | None:
    """Say in which settings a trial differs from what its arm and seed ask for; what a search tunes may be anything."""
    chosen = (header.chosen or {}).get(item.arm, {}) if item.phase == "repeat" else {}
    asked = header.changes.get(item.arm, {}) | chosen
    expected = header.settings | header.parameters | asked | {"seed": item.seed}
    found = header.kernel_defaults | record.config | own_parameters(record.config)
    free = contents.SPARED | (set(header.searched.get(item.arm, [])) - set(chosen) if header.samples else set())
    if header.kernel_defaults or any(name not in record.config for name in {*asked, *free} if name.startswith("kernel_")):
        free |= {"kernel_own"}  # its parts are compared, in a study of before those that the arm names
    differing = [
        f"{name} = {found[name]!r:.40} in place of {value!r:.40}"
        for name, value in expected.items()
        if name in found
        and name not in free
        and found[name] != (contents.KEPT_COMPILE.get(value, value) if name == "compile" and isinstance(value, str) else value)
    ]
    return f"not the trial of {item.arm}, {item.phase}, seed {item.seed}: {'; '.join(differing)}" if differing else None
