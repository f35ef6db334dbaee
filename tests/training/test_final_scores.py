"""The final scores: temperature scaling fitted on validation data alone, uncertainty as a detector, the tables on disk."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from mldiv.config import TrialConfig
from mldiv.datasets import corruptions
from mldiv.datasets.splits import Split
from mldiv.evaluation import predictive, temperature_scaling
from mldiv.method.networks import MODELS
from mldiv.records import study_files
from mldiv.storage.cache import Store
from mldiv.training.final_scores import shifted_images
from mldiv.training.fit import fit
from mldiv.training.loop import make_pair
from mldiv.training.worker_cache import Workspace, dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)

    config = TrialConfig(
        data="digits", train_size=320, test_size=90, validation_size=90, arch="resnet8", width=0.25, epochs=6, switch_epoch=4,
        pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=3, fusion_dim=16, scale_batches=2,
        ood="photographs,noise", shift_share=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("trial")
    return config, folder, fit(config, folder / "t", store=Store(folder / "store"))


def table(folder, name="predictions", member="pair"):
    frame = pd.read_parquet(folder / "t" / f"{name}.parquet")
    return frame[frame["member"] == member]


def test_the_record_agrees_with_the_predictions(trained):
    _, folder, record = trained
    for member in ("peer_1", "peer_2", "pair"):
        frame = table(folder, member=member)
        assert len(frame) == 90
        assert record.test[member]["accuracy"] == pytest.approx((frame["predicted"] == frame["label"]).mean())
        assert record.test[member]["nll"] == pytest.approx(-np.log(frame["label_probability"]).mean(), rel=1e-5)
        assert record.test_scaled[member]["nll"] == pytest.approx(-np.log(frame["scaled_label_probability"]).mean(), rel=1e-5)
        assert record.test_scaled[member]["accuracy"] == record.test[member]["accuracy"]
        assert record.calibration_temperature[member] > 0
    assert set(record.test_scaled["pair"]) == set(record.test["pair"]) - {"mutual_information"}


def test_how_bayesian_the_trial_is(trained):
    """The mean network beside the samples, sigma over |mu|, and the mutual information in its parts, from the checkpoint."""
    config, folder, record = trained
    data, device = dataset(config), torch.device("cpu")
    pair = make_pair(config, data.shapes)
    pair.load_state_dict(torch.load(folder / "t" / "checkpoint.pt", weights_only=True)["pair"])
    given = {"epoch": config.epochs, "device": device}
    means, labels = predictive.predictives(config, pair, data, "validation", samples=0, **given)
    assert list(record.posterior) == ["peer_1", "peer_2", "pair"]
    for member, found in record.posterior.items():
        chosen = means[member].probabilities[torch.arange(len(labels)), labels]
        assert found["mean_nll"] == pytest.approx(-chosen.log().mean().item(), rel=1e-5) != found["nll"]
        assert found["nll"] == record.validation[member]["nll"] and found["accuracy"] == record.validation[member]["accuracy"]
    for number, peer in enumerate(pair.peers, 1):
        ratio = np.median((peer.sigma / peer.mean.abs()).detach().numpy())
        assert record.posterior[f"peer_{number}"]["sigma_over_mean"] == pytest.approx(ratio, rel=1e-3)
    whole, parts = record.validation, record.posterior["pair"]
    own = [whole[peer]["mutual_information"] for peer in ("peer_1", "peer_2")]
    assert parts["within"] == pytest.approx(np.mean(own), rel=1e-3)
    assert parts["mutual_information"] == pytest.approx(whole["pair"]["mutual_information"], rel=1e-3)
    assert parts["between"] == pytest.approx(parts["mutual_information"] - parts["within"]) and parts["between"] > 0


def test_detection_against_sklearn(trained):
    _, folder, record = trained
    frame, other = table(folder), table(folder, "ood")
    wrong = frame["predicted"] != frame["label"]
    assert 0 < wrong.sum() < len(frame) and len(other) == 90
    for name in ("entropy", "mutual_information"):
        assert record.uncertainty["pair"][f"error_auroc_{name}"] == pytest.approx(roc_auc_score(wrong, frame[name]), abs=1e-4)
        both = np.concatenate([np.zeros(len(frame)), np.ones(len(other))]), np.concatenate([frame[name], other[name]])
        assert record.uncertainty["pair"][f"ood_auroc_{name}"] == pytest.approx(roc_auc_score(*both), abs=1e-4)


def test_test_labels_do_not_move_the_temperature(trained, tmp_path, monkeypatch):
    """Other test labels, the same temperature, the same validation scores."""
    config, _, record = trained
    data = dataset(config)
    turned = replace(data, test=replace(data.test, labels=(data.test.labels + 1) % 10))
    monkeypatch.setattr(Workspace, "data", lambda workspace, config: turned)
    other = fit(config, tmp_path / "t", store=Store(tmp_path / "store"))
    assert other.calibration_temperature == record.calibration_temperature and other.validation == record.validation
    assert other.test["pair"]["accuracy"] < record.test["pair"]["accuracy"]


@pytest.mark.parametrize("kept", ["none", "top", "full"])
def test_what_is_kept_of_the_predictions(trained, tmp_path, kept):
    """A trial that was killed before it was scored, taken up with another value: the same trial, the same scores."""
    config, folder, record = trained
    there = shutil.copytree(folder / "t", tmp_path / "t")
    for path in there.glob("*.parquet"):
        path.unlink()
    study_files.write_trial(there, replace(record, status="running"))
    found = fit(config.replace(keep_predictions=kept), there, store=Store(tmp_path / "store"))
    assert found.status == "finished" and found.id == record.id and found.test == record.test
    files = {"none": set(), "top": {"predictions", "ood"}, "full": {"predictions", "ood", "probabilities"}}[kept]
    assert {path.stem for path in there.glob("*.parquet")} == files
    study_files.read_trial(there)
    if kept == "full":
        frame = pd.read_parquet(there / "probabilities.parquet")
        assert list(frame["member"].unique()) == list(record.test) and len(frame) == 3 * 90
        for member in record.test:
            logarithms = np.stack(frame[frame["member"] == member]["log_probabilities"])
            labels = dataset(config).test.labels.numpy()
            assert -logarithms[np.arange(90), labels].astype(float).mean() == pytest.approx(
                record.test[member]["nll"], abs=1e-3
            )


def test_without_other_images(trained, tmp_path):
    config, _, record = trained
    other = fit(config.replace(ood="none"), tmp_path / "t", store=Store(tmp_path / "store"))
    assert other.uncertainty["pair"]["ood_auroc_entropy"] is None and other.test == record.test
    assert not (tmp_path / "t" / "ood.parquet").exists()
    assert study_files.read_trial(tmp_path / "t").uncertainty == other.uncertainty


def test_scaling_lowers_the_validation_nll_of_what_it_was_fitted_on(trained):
    """log_loss as the independent score: the pair's temperature is the best of a grid on validation data."""
    config, folder, record = trained
    data = dataset(config)
    pair = Workspace().pair(config, data)
    pair.load_state_dict(torch.load(folder / "t" / "checkpoint.pt", weights_only=True)["pair"])
    members, labels = predictive.predictives(
        config, pair, data, "validation", samples=config.test_samples, epoch=config.epochs, device=torch.device("cpu")
    )
    probabilities = members["pair"].probabilities

    def nll(temperature):
        scaled = temperature_scaling.scale(probabilities, temperature).double()
        return log_loss(labels, scaled / scaled.sum(1, keepdim=True), labels=list(range(10)))

    best = record.calibration_temperature["pair"]
    assert nll(best) <= min(nll(other) for other in np.geomspace(0.1, 10, 200)) + 1e-6
    assert nll(1.0) == pytest.approx(record.validation["pair"]["nll"], rel=1e-5)


def test_other_sets_by_every_measure_against_sklearn(trained):
    """The first one's images are those of ood.parquet, as before there were several."""
    _, folder, record = trained
    frame, other = table(folder), table(folder, "ood")
    found = record.other["pair"]
    assert {key.partition("/")[0] for key in found} == {"photographs", "noise"}
    truth = np.concatenate([np.zeros(len(frame)), np.ones(len(other))])
    for name, sign in (("entropy", 1), ("confidence", -1)):
        uncertainty = sign * np.concatenate([frame[name], other[name]])
        assert found[f"photographs/auroc_{name}"] == pytest.approx(roc_auc_score(truth, uncertainty), abs=1e-3)
        assert found[f"photographs/aupr_{name}"] == pytest.approx(average_precision_score(truth, uncertainty), abs=1e-3)
    assert found["photographs/auroc_entropy"] == pytest.approx(record.uncertainty["pair"]["ood_auroc_entropy"])
    assert all(found[f"noise/auroc_{name}"] is not None for name in ("energy", "largest_logit"))


@pytest.mark.parametrize(("of", "value"), [("severity", 4), ("kind", "fog")])
def test_corrupted_images_are_predicted_by_the_trained_pair(trained, of, value):
    """One severity's by hand, from the checkpoint, all kinds together; and one kind's at all severities."""
    config, folder, record = trained
    data, count = dataset(config), shifted_images(config, dataset(config))
    assert 0 < count == record.shift["pair"]["images"] <= 90 // 15
    assert 75 * count * config.test_samples <= 0.2 * config.epochs * 320 * 3  # passes, each as long as a forward one
    pair = make_pair(config, data.shapes)
    pair.load_state_dict(torch.load(folder / "t" / "checkpoint.pt", weights_only=True)["pair"])
    parts = [part for part in corruptions.shifted(data, count) if getattr(part, of) == value]
    assert len({index for part in parts for index in part.indices.tolist()}) == {4: 15, "fog": 1}[value] * count
    images, labels = (torch.cat([getattr(part.split, name) for part in parts]) for name in ("images", "labels"))
    given = {"samples": 3, "epoch": config.epochs, "device": torch.device("cpu")}
    members, _ = predictive.predictives(config, pair, replace(data, test=Split(images, labels)), "test", **given)
    probabilities = members["pair"].probabilities.numpy()
    assert record.shift["pair"][f"nll_{value}"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-4)
    assert record.shift["pair"][f"accuracy_{value}"] == pytest.approx((probabilities.argmax(1) == labels.numpy()).mean())
    assert record.shift["pair"]["nll_5"] > record.test["pair"]["nll"]


def test_no_room_for_corrupted_images_is_noted(trained):
    config, *_ = trained
    assert shifted_images(config.replace(shift_share=1e-6), dataset(config)) == 0
    assert shifted_images(config.replace(shift_share=10.0), dataset(config)) == 6  # each image under one corruption


def test_peers_together_and_what_generalises(trained):
    """The first peer alone, and all of them; the gain of the mean by hand from the predictions."""
    _, folder, record = trained
    assert record.ensembles["1"]["nll"] == pytest.approx(record.test["peer_1"]["nll"])
    assert record.ensembles["1"]["scaled_nll"] == pytest.approx(record.test_scaled["peer_1"]["nll"], rel=1e-5)
    assert record.ensembles["2"]["nll"] == pytest.approx(record.test["pair"]["nll"])
    first, second, together = (table(folder, member=member) for member in ("peer_1", "peer_2", "pair"))
    found = record.generalized["test"]
    apart = (first["predicted"].to_numpy() != second["predicted"].to_numpy()).mean()
    error = np.mean([(frame["predicted"] != frame["label"]).mean() for frame in (first, second)])
    assert found["disagreement"] == pytest.approx(apart) and found["over_error"] == pytest.approx(apart / error)
    nll = [-np.log(frame["label_probability"].to_numpy()).mean() for frame in (first, second, together)]
    assert found["gain"] == pytest.approx(np.mean(nll[:2]) - nll[2], rel=1e-3) and found["gain"] > 0
    assert record.generalized["train"]["gain"] > 0


def test_recalibrations_are_of_the_validation_data(trained):
    _, _, record = trained
    for member, found in record.recalibrated.items():
        assert set(found) == {f"{name}_{metric}" for name in ("vector", "isotonic") for metric in ("nll", "accuracy", "ece")}
        assert found["vector_nll"] != record.test[member]["nll"]


def test_the_size_against_counting_by_hand(trained):
    """Twice the multiplications of every convolution and of the last layer; means, rho and what is no weight."""
    config, _, record = trained
    pair = make_pair(config, dataset(config).shapes)
    flops, sizes = 0, []

    def count(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            sizes.append(2 * output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1])
        elif isinstance(module, torch.nn.Linear):
            sizes.append(2 * output.numel() * module.in_features)

    net = MODELS[config.arch](classes=10, channels=1, width=config.width, image_size=8)
    for module in net.modules():
        module.register_forward_hook(count)
    net(torch.zeros(1, 1, 8, 8))
    flops = 2 * sum(sizes)
    assert record.size["forward_flops"] == flops
    assert record.size["parameters"] == sum(value.numel() for peer in pair.peers for value in peer.parameters())
