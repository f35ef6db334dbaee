"""What becomes of pretrained means in the first epoch, in the first line of metrics.jsonl."""

import pytest
import torch
from helpers.first_stages import train

from mldiv.evaluation import first_epoch
from mldiv.evaluation.first_epoch import FirstEpoch
from mldiv.records import checked_files
from mldiv.training.loop import make_pair


@pytest.fixture
def pair(tiny, tiny_data):
    return make_pair(tiny, tiny_data.shapes).train()


def test_where_it_is_measured(tiny, tiny_data, pair):
    watch = FirstEpoch(tiny, pair, tiny_data, 0, torch.device("cpu"))
    for step in range(1, 7):
        watch(step / 6)
    assert [point["at"] for point in watch.lines()] == [0.0, 2 / 6, 3 / 6, 5 / 6, 1.0]
    assert all(set(point) == {"at", "peer_2"} for point in watch.lines()) and pair.training


def test_few_steps_and_peers_from_scratch(tiny, tiny_data, pair):
    watch = FirstEpoch(tiny, pair, tiny_data, 0, torch.device("cpu"))
    watch(1.0)
    assert [point["at"] for point in watch.lines()] == [0.0, 1.0]
    for config, epoch in ((tiny.replace(initialization="scratch"), 0), (tiny, 1)):
        watch = FirstEpoch(config, pair, tiny_data, epoch, torch.device("cpu"))
        watch(1.0)
        assert watch.lines() == []


@pytest.mark.parametrize("most", [500, 7])
def test_the_accuracy_of_the_mean_network(tiny, tiny_data, pair, most, monkeypatch):
    monkeypatch.setattr(first_epoch, "MOST_IMAGES", most)
    config = tiny.replace(initialization="pretrained")
    found = FirstEpoch(config, pair, tiny_data, 0, torch.device("cpu")).lines()[0]
    places = [round(place * 31 / 6) for place in range(7)] if most == 7 else range(32)
    images = (tiny_data.validation.images[list(places)].float() / 255 - tiny_data.mean[0]) / tiny_data.std[0]
    for number, peer in enumerate(pair.eval().peers, 1):
        said = peer(images, weights=peer.mean)[0].argmax(-1)
        assert found[f"peer_{number}"] == pytest.approx(
            (said == tiny_data.validation.labels[list(places)]).float().mean().item()
        )


def test_it_travels_with_the_first_line(tiny, tmp_path):
    """To the trials that share it, too."""
    tiny = tiny.replace(train_size=64, validation_size=32, test_size=32, test_samples=2)
    for config in (tiny, tiny.replace(alpha=0.5)):
        train(config, tmp_path)
        first, *others = checked_files.read_lines(tmp_path / config.id / "metrics.jsonl")
        assert [point["at"] for point in first["first_epoch"]] == [0.0, 0.5, 1.0]
        assert all(line["first_epoch"] == [] for line in others)
    assert first["shared"]
