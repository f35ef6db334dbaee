"""The final scores: temperature scaling fitted on validation data alone, uncertainty as a detector, the tables on disk."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from mldiv import records
from mldiv.config import TrialConfig
from mldiv.evaluation import predictive, temperature_scaling
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import make_pair
from mldiv.training.worker_cache import Workspace, dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)

    config = TrialConfig(
        data="digits", train_size=320, test_size=90, validation_size=90, arch="resnet8", width=0.25, epochs=6, switch_epoch=4,
        pretrain_epochs=1, batch_size=32, lr=0.05, validation_samples=2, test_samples=3, fusion_dim=16, scale_batches=2,
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


def test_without_other_images(trained, tmp_path):
    config, _, record = trained
    other = fit(config.replace(ood="none"), tmp_path / "t", store=Store(tmp_path / "store"))
    assert other.uncertainty["pair"]["ood_auroc_entropy"] is None and other.test == record.test
    assert not (tmp_path / "t" / "ood.parquet").exists()
    assert records.read_trial(tmp_path / "t").uncertainty == other.uncertainty


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
