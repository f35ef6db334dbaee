"""A trial's folder that is damaged, or holds what is another trial's: named, set aside, begun anew; no number changes."""

import hashlib
import shutil
import zipfile

import pytest
import torch
from helpers import damages
from helpers.first_stages import Killed, check_as_alone, cost, kill_after, train
from torch import nn

from mldiv.method.networks import MODELS
from mldiv.records import study_files
from mldiv.records.contents import TrialRecord
from mldiv.storage.cache import Store, seal

CHECKPOINT = "checkpoint.pt"


@pytest.fixture
def tiny(tiny):
    return tiny.replace(epochs=2, switch_epoch=1)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A copy of the folder, with its store, of a trial killed in its last epoch, beside it that of another seed."""
    made = {}

    def copy(config, folder):
        if config.id not in made:
            made[config.id] = tmp_path_factory.mktemp("begun")
            for trial in (config, config.replace(seed=5)):
                with pytest.raises(Killed):
                    train(trial, made[config.id], report=kill_after(0))
        shutil.copytree(made[config.id], folder, dirs_exist_ok=True)
        return folder / config.id

    return copy


def few(names, *kept):
    """All names; those that are not kept are for the long run."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


def change(**values):
    def changed(path):
        torch.save(torch.load(path, weights_only=True) | values, path)

    return changed


def without(name):
    def changed(path):
        state = torch.load(path, weights_only=True)
        del state[name]
        torch.save(state, path)

    return changed


def other_network(path):
    state = torch.load(path, weights_only=True)
    name = next(iter(state["pair"]))
    state["pair"][name] = torch.zeros(3)
    torch.save(state, path)


def other_optimizer(path):
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(3)
    torch.save(state, path)


def lost_momentum(path):
    """Of what is trained last: a layer's bias."""
    state = torch.load(path, weights_only=True)
    del state["optimizer"]["state"][max(state["optimizer"]["param_groups"][1]["params"])]
    torch.save(state, path)


def exchanged(path):
    (other,) = (found for found in path.parent.parent.glob(f"*/{CHECKPOINT}") if found != path)
    shutil.copyfile(other, path)


CHECKPOINTS = {
    "empty": (lambda path: damages.cut(path, 0), "BadZipFile"),
    "cut": (lambda path: damages.cut(path, 0.7), "BadZipFile"),
    "a bit of a tensor": (damages.flip_tensor, "the checksum of its part"),
    "text": (lambda path: path.write_text("{}"), "BadZipFile"),
    "a list": (lambda path: torch.save([1], path), "a list, where tensors by name"),
    "epoch 99": (change(epoch=99), "it is of epoch 99 of 2"),
    "epoch -5": (change(epoch=-5), "it is of epoch -5 of 2"),
    "epoch true": (change(epoch=True), "it is of epoch True"),
    "epoch 1.0": (change(epoch=1.0), "it is of epoch 1.0"),
    "no epoch": (without("epoch"), "it is of epoch None"),
    "no pair": (without("pair"), "its tensors are not those of this network"),
    "no optimizer": (without("optimizer"), "optimiser's state is missing"),
    "another network": (other_network, "its tensors are not those of this network"),
    "another optimizer": (other_optimizer, "its optimiser's state is another network's"),
    "a bias's momentum lost": (lost_momentum, "its optimiser has lost its momentum"),
    "momentum of a word": (change(momentum="all"), "what it knows of its momentum is wrong"),
    "exchanged": (exchanged, "it is trial "),
    "packed": (damages.packed, "it is packed"),
    "lines lost": (lambda path: path.with_name("metrics.jsonl").unlink(), "metrics.jsonl holds 0 of its 1 epochs"),
    "a line changed": (
        lambda path: damages.flip(path.with_name("metrics.jsonl"), 0.001),
        "metrics.jsonl holds 0 of its 1 epochs",
    ),
} | {name: (damage, "no regular file") for name, damage in damages.NO_FILES.items() if name != "2 TiB"}


@pytest.mark.parametrize(
    "name",
    few(CHECKPOINTS, "cut", "a bias's momentum lost", "a bit of a tensor", "epoch 99", "exchanged", "lines lost", "a pipe"),
)
def test_a_damaged_checkpoint_is_named_set_aside_and_the_trial_begun_anew(tiny, tmp_path, alone, begun, name):
    damage, why = CHECKPOINTS[name]
    folder = begun(tiny, tmp_path)
    damage(folder / CHECKPOINT)
    record = train(tiny, tmp_path)
    (note,) = record.notes
    assert note.startswith(f"{CHECKPOINT} was damaged (") and why in note
    assert note.endswith(f"is kept as {CHECKPOINT}.damaged, and the trial was begun anew")
    assert (folder / f"{CHECKPOINT}.damaged").is_symlink() or (folder / f"{CHECKPOINT}.damaged").exists()
    assert study_files.read_trial(folder).notes == record.notes
    check_as_alone(tiny, folder, alone)


def test_a_checkpoint_that_does_not_say_whose_it_is_is_taken_up(tiny, tmp_path, alone, begun):
    """As mldiv 0.5.0 left them."""
    folder = begun(tiny, tmp_path)
    without("trial")(folder / CHECKPOINT), without("switch")(folder / CHECKPOINT), without("momentum")(folder / CHECKPOINT)
    record = train(tiny, tmp_path)
    assert not record.notes and record.attempts == 2
    check_as_alone(tiny, folder, alone)


def test_a_network_with_a_layer_that_it_does_not_use_goes_on(tiny, tmp_path, monkeypatch):
    """The layer's bias never has a gradient, and so no momentum."""

    def idle(*given):
        network = MODELS["resnet8"](*given)
        network.left_over = nn.Linear(3, 2)
        return network

    monkeypatch.setitem(MODELS, "idle", idle)
    config = tiny.replace(arch="idle", initialization="scratch")
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(0))
    record = train(config, tmp_path)
    assert not record.notes and record.attempts == 2


def text(change):
    return lambda path: path.write_text(change(path.read_text()))


def copied(path):
    (other,) = (found for found in path.parent.parent.glob("*/trial.json") if found != path)
    shutil.copyfile(other, path)


def finished(path):
    """By hand: as if it had finished."""
    damages.rewrite(path, lambda value: value | {"status": "finished", "epochs": 2})


def finished_elsewhere(path):
    """A whole record, but of another configuration."""
    record = study_files.read_trial(path.parent)
    study_files.write_trial(
        path.parent, TrialRecord(record.id, record.config | {"lr": 0.7}, record.left_out, "finished", epochs=2)
    )


RECORDS = {
    "empty": (lambda path: damages.cut(path, 0), "not valid JSON"),
    "cut": (lambda path: damages.cut(path, 0.5), "not valid JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "nested": (lambda path: path.write_text("[" * 100_000), "not valid JSON"),
    "edited": (finished, "its checksum does not fit its content"),
    "of another configuration": (finished_elsewhere, "its config is another trial's"),
    "copied": (copied, "the record of another trial"),
    "NaN": (text(lambda text: text.replace('"attempts": 1', '"attempts": NaN')), "NaN is not a finite number"),
    "infinite": (text(lambda text: text.replace('"attempts": 1', '"attempts": 1e999')), "1e999 is not a finite number"),
    "of 400 digits": (text(lambda text: text.replace('"attempts": 1', f'"attempts": {"1" * 400}')), "a number of 400 digits"),
} | {name: (damage, "bytes, where" if "TiB" in name else "no regular file") for name, damage in damages.NO_FILES.items()}


@pytest.mark.parametrize("name", few(RECORDS, "cut", "edited", "copied", "a device"))
def test_a_damaged_record_is_named_set_aside_and_the_trial_goes_on(tiny, tmp_path, alone, begun, name):
    damage, why = RECORDS[name]
    folder = begun(tiny, tmp_path)
    damage(folder / "trial.json")
    record = train(tiny, tmp_path)
    (note,) = record.notes
    assert note.startswith("trial.json was damaged (") and why in note and note.endswith("is kept as trial.json.damaged")
    assert (record.status, record.epochs, record.attempts) == ("finished", 2, 1)
    check_as_alone(tiny, folder, alone)


@pytest.mark.parametrize("known", ["whole_fingerprint", "test_fingerprint"])
def test_a_trial_of_other_images_is_set_aside_with_its_checkpoint(tiny, tmp_path, alone, begun, known):
    """As in a folder that was copied to a study of other images; before there was a whole one, the test images tell."""
    folder = begun(tiny, tmp_path)
    record = study_files.read_trial(folder)
    if known == "test_fingerprint":
        del record.data["whole_fingerprint"]
    record.data[known] = "another"
    study_files.write_trial(folder, record)
    new = train(tiny, tmp_path)
    (note,) = new.notes
    assert "this trial with other images" in note and new.attempts == 1
    assert (folder / "trial.json.damaged").exists() and (folder / f"{CHECKPOINT}.damaged").exists()
    check_as_alone(tiny, folder, alone)


def test_a_record_damaged_after_the_switch_loses_nothing(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    damages.flip(tmp_path / tiny.id / "trial.json", 0.5)
    record = train(tiny, tmp_path)
    assert record.switch == study_files.read_trial(alone(tiny)).switch and len(record.notes) == 1
    check_as_alone(tiny, tmp_path / tiny.id, alone)


# What trials share


def sealed(folder, part):
    """The store's only entry of this part."""
    (path,) = (folder / "store" / "entries" / part).rglob("*.pt")
    return path


def seal_bytes(payload):
    return b"mldiv-store 1 " + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


ENTRIES = {
    "empty": lambda path, other: path.write_bytes(seal({})),
    "no state": lambda path, other: path.write_bytes(seal([1])),
    "nothing": lambda path, other: path.write_bytes(seal_bytes(b"")),
    "another entry": lambda path, other: shutil.copyfile(other, path),
    "a pipe": lambda path, other: damages.pipe(path),
    "a device": lambda path, other: damages.device(path),
}


@pytest.mark.parametrize("part", ["trunks", "pretrained"])
@pytest.mark.parametrize("name", few(ENTRIES, "nothing", "another entry"))
def test_an_entry_that_holds_something_else_is_set_aside_and_computed_anew(tiny, tmp_path, alone, led, part, name):
    led(tiny, tmp_path)
    paths = {found: sealed(tmp_path, found) for found in ("trunks", "pretrained")}
    other = paths["pretrained" if part == "trunks" else "trunks"]
    ENTRIES[name](paths[part], other)
    if part == "pretrained":
        paths["trunks"].unlink()
    config = tiny.replace(kernel="rbf")
    record = train(config, tmp_path)
    (note,) = record.notes
    assert f"{paths[part].name} was damaged (" in note and note.endswith("and is computed anew")
    assert (
        paths[part].with_name(f"{paths[part].name}.damaged").is_symlink()
        or paths[part].with_name(f"{paths[part].name}.damaged").exists()
    )
    assert cost(record) == ((2, 0, 0) if part == "trunks" else (2, 0, 1))
    check_as_alone(config, tmp_path / config.id, alone)


def test_a_prefix_whose_lines_cannot_be_is_set_aside(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    path, store = sealed(tmp_path, "trunks"), Store(tmp_path / "store")
    (name,) = (name for name in store.entries() if name.startswith("trunks"))
    path.write_bytes(seal(store.read(name, torch.device("cpu")) | {"lines": [{"epoch": 0}]}))
    config = tiny.replace(kernel="rbf")
    record = train(config, tmp_path)
    assert len(record.notes) == 1 and "was damaged (line 1: fields diversity, lr" in record.notes[0]
    check_as_alone(config, tmp_path / config.id, alone)


# Links


def test_lines_and_predictions_are_not_written_through_links(tiny, tmp_path, alone):
    folder, outside = tmp_path / tiny.id, tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    for name in ("metrics.jsonl", "predictions.parquet", ".predictions.parquet", "ood.parquet", CHECKPOINT):
        if name != CHECKPOINT:
            (folder / name).symlink_to(outside)
    (folder / CHECKPOINT).symlink_to(tmp_path / "nowhere")
    record = train(tiny, tmp_path)
    assert outside.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert record.status == "finished"
    check_as_alone(tiny, folder, alone)


def test_a_line_is_never_appended_through_a_link(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"):
        study_files.append_line(tmp_path / "metrics.jsonl", {"epoch": 0})
    assert not (tmp_path / "outside").exists()


def test_every_part_of_a_checkpoint_has_its_checksum(tiny, tmp_path, begun):
    """What `load` relies on: torch itself reads over a flipped bit."""
    with zipfile.ZipFile(begun(tiny, tmp_path) / CHECKPOINT) as file:
        assert all(item.CRC for item in file.infolist() if item.file_size)
