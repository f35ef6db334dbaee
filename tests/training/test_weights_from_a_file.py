"""Peers that start from weights in a file: what fits is taken by name and shape, what does not is said."""

import collections
import re
import sys

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from mldiv.config import ConfigError
from mldiv.datasets.files import DataError, content_hash
from mldiv.datasets.splits import Shapes
from mldiv.method.networks import build
from mldiv.storage import public_weights
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import network
from mldiv.training.pretraining import from_file, pretraining_ids

TEN = Shapes(10, 1, 160, 8)


@pytest.fixture
def file(tiny, tmp_path):
    """The weights of a network of another seed, of 4 classes, as a checkpoint of a wrapped one holds them."""
    state = network(tiny.replace(seed=7), TEN._replace(classes=4), "another").state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def named(config, path):
    return config.replace(pretrained=str(path), pretrained_hash=content_hash(path))


def test_what_fits_is_taken_and_the_rest_is_named(tiny, file):
    state, said = from_file(named(tiny, file), TEN, "pretrain")
    theirs = network(tiny.replace(seed=7), TEN._replace(classes=4), "another").state_dict()
    start = network(tiny, TEN, "pretrain").state_dict()
    for name, value in state.items():
        assert torch.equal(value, (start if name.startswith("linear") else theirs)[name]), name
    assert said == (
        f"own.pt: {len(start) - 2} of {len(start)} tensors; left at their random start: linear.weight ([4, 16] there, [10, 16] "
        "here), linear.bias ([4] there, [10] here)"
    )


def test_public_weights_by_their_names(tmp_path, monkeypatch):
    """torchvision's ResNet-18: all but stem and head of it in a network for small images and ten classes."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    there = resnet18()
    (tmp_path / "checkpoints").mkdir()
    torch.save(there.state_dict(), tmp_path / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    path = public_weights.located("ResNet18_Weights.IMAGENET1K_V1")
    assert path.name == "resnet18-f37072fd.pth" and public_weights.located("own.pt") is None
    own, theirs = build("resnet18", classes=10, seed=0, image_size=32).state_dict(), there.state_dict()
    state, said = public_weights.fitted(path, own)
    assert {name for name in own if own[name].shape != theirs[name].shape} == (left := {"conv1.weight", "fc.weight", "fc.bias"})
    assert all(torch.equal(state[name], (own if name in left else theirs)[name]) for name in own)
    assert "119 of 122 tensors" in said and "conv1.weight ([64, 3, 7, 7] there, [64, 3, 3, 3] here)" in said
    with pytest.raises(DataError, match=r"--pretrained ResNet18_Weights\.MINE: torchvision knows no such weights"):
        public_weights.located("ResNet18_Weights.MINE")


def refuse(*args, **options):
    raise OSError("no network")


def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(DataError, match=r"cannot be fetched \(no network\); put https://.*resnet18-f37072fd.pth into"):
        public_weights.located("ResNet18_Weights.DEFAULT")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": torch.ones(3)}, "none of its tensors is of this network; there: weight; here: conv1.weight, bn1.weight"),
        ({"conv1.weight": torch.full((4, 1, 3, 3), torch.nan)}, "conv1.weight is not finite"),
        (torch.ones(3), "none of its tensors is of this network"),
        ({"conv1.weight": Evil()}, "no file of tensors alone"),
        (None, "no file of tensors alone"),
    ],
)
def test_files_that_are_no_weights_of_the_network(tiny, tmp_path, content, said):
    torch.save(content, tmp_path / "x.pt") if content is not None else (tmp_path / "x.pt").write_bytes(b"PK no file")
    with pytest.raises(DataError, match=said):
        from_file(named(tiny, tmp_path / "x.pt"), TEN, "pretrain")


def test_a_file_of_torchs_older_form_with_a_changed_byte(tiny, tmp_path):
    """Torch asserts that it has the storage that a tensor names: it is no fault of the program's."""
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    key = whole.rindex(str(max(map(int, re.findall(rb"\d{6,}", whole)))).encode())
    (tmp_path / "x.pt").write_bytes(whole[:key] + b"1" + whole[key + 1 :])
    with pytest.raises(DataError, match="no file of tensors alone"):
        from_file(named(tiny, tmp_path / "x.pt"), TEN, "pretrain")


def test_weights_of_a_wider_network_are_no_start(tiny, tmp_path):
    """Of these the classifier's bias alone has the same shape; the peer called pretrained started at random."""
    torch.save(network(tiny.replace(width=2 * tiny.width), TEN, "wide").state_dict(), tmp_path / "wide.pt")
    with pytest.raises(DataError, match=r"wide.pt: is of another network: 10 of [\d,]+ values fit.*conv1.weight \(\["):
        from_file(named(tiny, tmp_path / "wide.pt"), TEN, "pretrain")


def test_safetensors(tiny, tmp_path):
    torch_file = pytest.importorskip("safetensors.torch")
    state = network(tiny.replace(seed=7), TEN, "another").state_dict()
    torch_file.save_file(state, tmp_path / "own.safetensors")
    found, said = from_file(named(tiny, tmp_path / "own.safetensors"), TEN, "pretrain")
    assert said == f"own.safetensors: {len(state)} of {len(state)} tensors"
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_safetensors_without_its_library(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "own.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="safetensors reads it: pip install safetensors"):
        from_file(named(tiny, tmp_path / "own.safetensors"), TEN, "pretrain")


def test_a_trial_is_known_by_what_the_file_holds(tiny, file, tmp_path):
    config = named(tiny, file)
    assert config.id != tiny.id and config.replace(pretrained="/elsewhere").id == config.id
    assert pretraining_ids(config) == {} and len(pretraining_ids(tiny)) == 1
    assert tiny.replace(pretrained=None, pretrained_hash="").id == tiny.id
    with pytest.raises(ConfigError, match="pretrained and pretrained_hash go together"):
        tiny.replace(pretrained=str(file))
    file.write_bytes(b"another")
    with pytest.raises(DataError, match=r"own.pt: its contents have changed"):
        from_file(config, TEN, "pretrain")


def test_a_trial_starts_there(tiny, tiny_data, file, tmp_path, monkeypatch):
    """Peer 2 has the file's means at the first step, peer 1 its random start; nothing is pretrained."""
    seen = collections.defaultdict(list)
    original = torch.optim.SGD.step

    def step(optimizer, *args, **options):
        for group in optimizer.param_groups:
            seen[group.get("peer")].append(group["params"][0].detach().clone())
        return original(optimizer, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    record = fit(named(tiny, file).replace(pretrain_epochs=0), tmp_path / "trial", store=Store(tmp_path / "store"))
    assert record.status == "finished" and record.cost["pretraining_epochs_trained"] == 0
    first = network(tiny.replace(seed=7), TEN._replace(classes=4), "another").conv1.weight.flatten()
    assert torch.equal(seen[2][0][: len(first)], first) and not torch.equal(seen[1][0][: len(first)], first)
    assert any(note.startswith("peer 2 starts from own.pt: ") for note in record.notes)


def test_a_trial_that_is_begun_again_says_once_where_it_starts(tiny, file, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.SGD, "step", killed)
        fit(named(tiny, file), tmp_path / "trial", store=Store(tmp_path / "store"))
    record = fit(named(tiny, file), tmp_path / "trial", store=Store(tmp_path / "store"))
    assert record.attempts == 2 and len([note for note in record.notes if "starts from" in note]) == 1


def test_a_trial_that_shares_the_first_stage_says_where_it_started(tiny, file, tmp_path):
    store = Store(tmp_path / "store")
    records = [fit(named(tiny, file).replace(alpha=alpha), tmp_path / str(alpha), store=store) for alpha in (0.1, 0.2)]
    assert records[1].cost["epochs_shared"] > 0
    for record in records:
        assert [note for note in record.notes if note.startswith("peer 2 starts from own.pt: ")], record.notes
