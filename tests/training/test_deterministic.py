"""Deterministic twins: networks without noise or prior, with weight decay; and what a finished teacher teaches one of them."""

import math

import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, differing, kill_after, train

from mldiv.config import ConfigError
from mldiv.evaluation.gradients import measure
from mldiv.method import losses
from mldiv.method.networks import build
from mldiv.method.pair import MutualPair, Objective, term_names
from mldiv.records import checked_files, study_files
from mldiv.storage.cache import Store
from mldiv.training.loop import epoch_batches, make_optimizer, make_pair, optimizer_of, set_rates, train_step
from mldiv.training.pretraining import for_teacher, pretrained, pretraining_ids
from mldiv.training.worker_cache import dataset

CPU = torch.device("cpu")
TAUGHT = {"posterior": "deterministic", "peers": 1, "teacher": "pretrained"}


@pytest.fixture
def twin(tiny):
    return tiny.replace(posterior="deterministic", weight_decay=0.01)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_that_never_meet_are_trained_as_plain_networks_are(twin, optimizer):
    """Against torch modules with the usual loop: cross-entropy, weight decay of all parameters, clipping."""
    config = twin.replace(mutual_weight=0.0, optimizer=optimizer, lr=0.01, clip_norm=1.0)
    data = dataset(config)
    pair = make_pair(config, data.shapes)
    plain = [make_pair(config, data.shapes).peers[place] for place in (0, 1)]
    modules = []
    for peer in plain:
        state = peer.module.state_dict() | {name: value.detach().clone() for name, value in peer.views(peer.mean).items()}
        module = build(config.arch, classes=10, channels=1, width=config.width, seed=0)
        module.load_state_dict(state)
        modules.append(module.train())
    own, others = make_optimizer(config, pair), [optimizer_of(config, each.parameters(), 0.01) for each in modules]
    for images, labels in epoch_batches(config, data, 0, "fit", CPU):
        set_rates(config, own, 0, 1.0)
        train_step(config, pair.train(), pair, own, images, labels, pair.draw_noise(), False)
        for module, other in zip(modules, others, strict=True):
            other.zero_grad()
            torch.nn.functional.cross_entropy(module(images)[0], labels).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            other.step()
    for peer, module in zip(pair.peers, modules, strict=True):
        found = peer.module.state_dict() | peer.views(peer.mean)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_a_whole_trial(twin, alone):
    """With both diversity terms: no KL, sigma 0, one sample, whose mutual information is between the peers alone."""
    folder = alone(twin)
    record = study_files.read_trial(folder)
    assert record.status == "finished" and record.switch["param_distance"] > 0
    for line in checked_files.read_lines(folder / "metrics.jsonl"):
        assert line["train"]["kl_1"] == line["train"]["kl_2"] == 0
        assert line["diversity"]["sigma_1"] == line["diversity"]["sigma_2"] == 0
    assert line["train"]["param_diversity"] != 0 and line["train"]["feature_diversity"] != 0
    assert record.posterior["peer_1"]["sigma_over_mean"] == 0
    pair = record.posterior["pair"]
    assert pair["within"] == pytest.approx(0, abs=1e-6) and pair["between"] > 0
    for found in record.posterior.values():
        assert found["nll"] == found["mean_nll"] and found["accuracy"] == found["mean_accuracy"]
    assert record.test["peer_1"]["mutual_information"] == pytest.approx(0, abs=1e-6)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["pair"]
    fresh = make_pair(twin, dataset(twin).shapes).state_dict()
    assert torch.equal(saved["peer_1.rho"], fresh["peer_1.rho"]) and not torch.equal(saved["peer_1.mean"], fresh["peer_1.mean"])


def test_it_goes_on_bit_for_bit(twin, tmp_path, alone):
    with pytest.raises(Killed):
        train(twin, tmp_path, report=kill_after(2))
    train(twin, tmp_path)
    check_as_alone(twin, tmp_path / twin.id, alone)


def test_its_gradients_can_be_measured(twin):
    data = dataset(twin)
    pair = make_pair(twin, data.shapes)
    batches = [next(epoch_batches(twin, data, 0, "gradients", CPU))]
    found = measure(twin, pair, batches, epoch=0, diverse=True)
    assert found["kl"]["mean_1"] == found["nll"]["rho_1"] == 0 < found["nll"]["mean_1"]


@pytest.mark.parametrize("changes", [{"param_distance": "kl"}, {"param_distance": "symmetric_kl"}, {"train_samples": 2}])
def test_what_needs_noise_is_refused(twin, changes):
    with pytest.raises(ConfigError, match="without noise"):
        twin.replace(**changes)


def test_weight_decay_of_the_means_alone(tiny):
    """Against its formula: a step without gradients shrinks them by lr * decay, and nothing else."""
    config = tiny.replace(mean_weight_decay=0.1, lr=0.5)
    pair = make_pair(config, dataset(config).shapes)
    before = {name: value.detach().clone() for name, value in pair.named_parameters()}
    optimizer = make_optimizer(config, pair)
    for value in pair.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for name, value in pair.named_parameters():
        torch.testing.assert_close(value, before[name] * (1 - 0.05) if name.endswith(".mean") else before[name])


def test_what_a_finished_teacher_teaches(tiny, tmp_path):
    """T^2 KL to its predictions, the teacher in evaluation mode and never trained."""
    config = tiny.replace(temperature=2.0, mutual_weight=0.7, **TAUGHT)
    data = dataset(config)
    state, epochs = pretrained(for_teacher(config), data, Store(tmp_path), CPU, "teacher")
    assert epochs == config.epochs
    pair = make_pair(config, data.shapes)
    (teacher,) = pair.teachers
    teacher.load_state_dict(state)
    pair.train()
    images, labels = next(epoch_batches(config, data, 0, "fit", CPU))
    total, terms = pair(images, labels)
    total.backward()
    peer = pair.peers[0]
    own, other = (peer(images, weights=peer.mean)[0] / 2).softmax(-1), (teacher(images)[0] / 2).softmax(-1)
    found = dict(zip(term_names(1), terms.tolist(), strict=True))
    assert found["mutual_1"] == pytest.approx(4 * (other * (other / own).log()).sum(-1).mean().item(), rel=1e-4)
    assert found["total"] == pytest.approx(found["nll_1"] + 0.7 * found["mutual_1"], rel=1e-5)
    assert not teacher.training and all(value.grad is None for value in teacher.parameters())
    assert differing(dict(teacher.state_dict()), dict(state)) == [] and not any("teacher" in name for name in pair.state_dict())


def test_a_taught_network_from_start_to_end(tiny, tmp_path, alone):
    """Killed and gone on with as trained at once; its teacher is counted, and found again."""
    config = tiny.replace(**TAUGHT)
    record = study_files.read_trial(alone(config))
    assert record.status == "finished" and record.cost["pretraining_epochs_trained"] == config.epochs
    assert list(pretraining_ids(config).values()) == [config.epochs]
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(1))
    train(config, tmp_path)
    check_as_alone(config, tmp_path / config.id, alone)
    assert study_files.read_trial(tmp_path / config.id).cost["pretraining_epochs_trained"] == config.epochs
    lines = list(checked_files.read_lines(tmp_path / config.id / "metrics.jsonl"))
    assert all(math.isfinite(line["train"]["mutual_1"]) and line["train"]["mutual_1"] > 0 for line in lines)
    with pytest.raises(ConfigError, match="set peers to 1"):
        tiny.replace(teacher="pretrained")


def test_a_teacher_beside_other_peers():
    """A peer learns the mean of what it would learn from each of the others and from the teacher."""
    logits = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    pair = MutualPair([torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)], Objective(10), fusion=torch.nn.Identity())
    found = pair.mutual_terms(logits[:2], logits[2:])["mutual"]
    for own, other in ((0, 1), (1, 0)):
        expected = sum(losses.logit_mutual(logits[own], logits[place], 1.0) for place in (other, 2)) / 2
        torch.testing.assert_close(found[own], expected)
