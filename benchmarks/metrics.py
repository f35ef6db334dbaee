"""Does every metric give what an independent public implementation gives, on real predictions?

scikit-learn's digits with noise on every pixel: MEMBERS logistic regressions on bootstrap samples are the samples of a
predictive, two halves of them its two peers; images of other data are the digits with their pixels
shuffled. Where the packages of requirements.txt are not installed, the table says so. Writes benchmarks/metrics.md.

    python benchmarks/metrics.py [--out benchmarks/metrics.md]
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torchmetrics.functional.classification as torchmetrics
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from timing import caption, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mldiv.evaluation import detection, metrics, temperature_scaling
from mldiv.evaluation.metrics import Predictive
from mldiv.evaluation.recalibration import isotonic, vector

sys.path.remove(str(Path(__file__).parent))  # a script there is called analysis, too
from analysis.stats.calibration import debiased_calibration_error
from analysis.stats.smooth_calibration import smooth_error

MEMBERS, TRAIN, VALIDATION, CLASSES = 10, 300, 500, 10


@dataclass(frozen=True)
class Predicted:
    """Logits [samples, images, classes] and labels; the predictive of all samples."""

    logits: Tensor
    labels: Tensor

    @property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def predictive(self) -> Predictive:
        each, logits = self.probabilities, self.logits
        parts = each.mean(0), metrics.entropy(each).mean(0), logits.logsumexp(-1).mean(0), logits.amax(-1).mean(0)
        return Predictive(*parts)


def predictions() -> tuple[Predicted, Predicted, Predicted]:
    """Predict validation data, test data, and other images."""
    pixels, labels = load_digits(return_X_y=True)
    stream = np.random.default_rng(0)
    order = stream.permutation(len(labels))
    pixels, labels = pixels[order] / 16 + 0.4 * stream.standard_normal(pixels.shape), labels[order]
    drawn = [stream.integers(TRAIN, size=TRAIN) for _ in range(MEMBERS)]
    models = [LogisticRegression(C=3.0, max_iter=500).fit(pixels[rows], labels[rows]) for rows in drawn]

    def predict(images: np.ndarray, truth: np.ndarray) -> Predicted:
        logits = np.stack([model.decision_function(images) for model in models])
        return Predicted(torch.from_numpy(logits), torch.from_numpy(truth))

    edges = TRAIN, TRAIN + VALIDATION
    test = pixels[edges[1] :]
    shuffled = stream.permuted(test[:500], axis=1)
    return (
        predict(pixels[edges[0] : edges[1]], labels[edges[0] : edges[1]]),
        predict(test, labels[edges[1] :]),
        predict(shuffled, labels[:500]),
    )


Compared = tuple[str, float, str, Callable[[], float], str]


def scored(test: Predicted) -> list[Compared]:
    """Scores and calibration: metric, ours, the package, theirs, why they differ."""
    p, y, predictive = test.predictive.probabilities, test.labels, test.predictive
    ours, half = metrics.scores(predictive, y), MEMBERS // 2
    peers = [Predicted(logits, y).predictive for logits in test.logits.split(half)]
    confidence, predicted = (values.numpy() for values in p.max(-1))
    right = (predicted == y.numpy()).astype(float)
    spread = metrics.disagreement(*peers).item()
    two = torch.stack([peer.probabilities for peer in peers], 1)

    def uncertainty(name: str, *given: Tensor, **settings: object) -> Callable[[], float]:
        def value() -> float:
            import torch_uncertainty.metrics.classification as theirs

            metric = getattr(theirs, name)(**settings)
            metric.update(*given)
            return float(metric.compute())

        return value

    def relplot() -> float:
        import relplot

        return float(relplot.smECE(confidence, right))

    def kumar() -> float:
        import calibration

        binned = calibration.utils.bin(list(zip(confidence, right, strict=True)), [k / 15 for k in range(1, 16)])
        return float(calibration.utils.unbiased_square_ce(binned))

    samples, tu = test.probabilities.transpose(0, 1), "torch-uncertainty"
    classes = {"num_classes": CLASSES}
    return [
        ("accuracy", ours["accuracy"], "torchmetrics", lambda: torchmetrics.multiclass_accuracy(p, y, 10, "micro"), ""),
        ("NLL", ours["nll"], "scikit-learn", lambda: log_loss(y.numpy(), p.numpy()), ""),
        ("Brier", ours["brier"], tu, uncertainty("BrierScore", p, y, **classes), ""),
        ("ECE", ours["ece"], "torchmetrics", lambda: torchmetrics.multiclass_calibration_error(p, y, 10, 15), ""),
        ("adaptive ECE", ours["adaptive_ece"], tu,
         uncertainty("AdaptiveCalibrationError", p, y, task="multiclass", num_bins=15, n_bins=15, **classes),
         "bins of n/15 images, rounded otherwise (of 990 images the same)"),
        ("classwise ECE", ours["classwise_ece"], tu,
         uncertainty("ClasswiseCalibrationError", p, y, num_bins=15, **classes), ""),
        ("debiased error, squared", debiased_calibration_error(confidence, right), "uncertainty-calibration", kumar, ""),
        ("SmoothECE", smooth_error(confidence, right), "relplot", relplot,
         "theirs: a mesh of 200 points (with 20,001: -4e-05), a width bisected to 2^-10"),
        ("SmoothECE", smooth_error(confidence, right), tu,
         uncertainty("SmoothCalibrationError", p.float(), y, kernel_type="reflected"), "the same as relplot"),
        ("entropy", ours["entropy"], tu, uncertainty("Entropy", p), ""),
        ("mutual information", ours["mutual_information"], tu, uncertainty("MutualInformation", samples), ""),
        ("disagreement", spread, tu, uncertainty("Disagreement", two), ""),
        ("AURC by confidence", detection.aurc(-p.max(-1).values, p.argmax(-1) != y), tu, uncertainty("AURC", p, y),
         "theirs: trapezes from coverage 1/N on, over 1 - 1/N"),
        ("AUGRC by confidence", detection.augrc(-p.max(-1).values, p.argmax(-1) != y), tu, uncertainty("AUGRC", p, y),
         "theirs: trapezes, ours the mean over k = 1..N"),
    ]  # fmt: skip


def detected(test: Predicted, other: Predicted) -> list[Compared]:
    """Detection of the other images by each measure, and the measures of the logits."""
    ours, rows = metrics.detection_scores(test.predictive, other.predictive), []
    truth = torch.cat([torch.zeros(len(test.labels)), torch.ones(len(other.labels))])

    def theirs(name: str, scores: Tensor) -> float:
        import pytorch_ood.metrics.functional as theirs

        if name == "fpr95":
            return float(theirs.fpr_at_tpr(scores, torch.where(truth == 1, -1, 0), 0.95))
        return float(getattr(theirs, name)(scores, torch.where(truth == 1, -1, 0)))

    for measure, function in metrics.UNCERTAINTIES.items():
        scores = torch.cat([function(test.predictive), function(other.predictive)])
        learnt = {"auroc": roc_auc_score, "aupr": average_precision_score}
        for name, score in learnt.items():
            call = lambda f=score, s=scores: f(truth, s)  # noqa: E731
            rows.append((f"{name.upper()}, {measure}", ours[f"{name}_{measure}"], "scikit-learn", call, ""))
        for name in ("auroc", "aupr", "fpr95"):
            why = "theirs: trapezes under the curve" if name == "aupr" else ""
            call = lambda n=name, s=scores: theirs(n, s)  # noqa: E731
            rows.append((f"{name.upper()}, {measure}", ours[f"{name}_{measure}"], "pytorch-ood", call, why))

    def detector(name: str) -> float:
        from pytorch_ood import detector

        return float(getattr(detector, name).score(test.logits.flatten(0, 1)).mean())

    logits = ("energy", metrics.energy, "EnergyBased"), ("-max logit", metrics.minus_largest_logit, "MaxLogit")
    for name, function, theirs_name in logits:
        value = function(test.predictive).mean().item()
        rows.append((f"mean {name}", value, "pytorch-ood", lambda n=theirs_name: detector(n), ""))
    return rows


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    classes_ = np.arange(CLASSES)

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "Given":
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return features

    def predict(self, features: np.ndarray) -> np.ndarray:
        return features.argmax(-1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def recalibrated(validation: Predicted, test: Predicted) -> list[Compared]:
    """NLL of the test data after recalibration on validation data."""
    fit, p, y = validation.predictive.probabilities, test.predictive.probabilities, test.labels

    def nll(probabilities: Tensor) -> float:
        return float(metrics.nll(Predictive(probabilities, probabilities.new_zeros(len(y))), y))

    def scaler(name: str, **settings: int) -> float:
        import torch_uncertainty.post_processing as theirs

        model = getattr(theirs, name)(model=nn.Identity(), lr=0.1, max_iter=500, **settings)
        model.fit(DataLoader(TensorDataset(fit.log().float(), validation.labels), batch_size=1000), progress=False)
        with torch.no_grad():
            return nll(model(p.log().float()).double().softmax(-1))

    def steps() -> float:
        learnt = CalibratedClassifierCV(FrozenEstimator(Given()), method="isotonic").fit(fit.numpy(), validation.labels.numpy())
        shares = torch.from_numpy(learnt.predict_proba(p.numpy()))
        return nll((VALIDATION * shares + 1 / CLASSES) / (VALIDATION + 1))

    def by_gradient() -> float:
        weights, biases = torch.ones(CLASSES).double().requires_grad_(), torch.zeros(CLASSES).double().requires_grad_()
        settings = {"max_iter": 1000, "tolerance_grad": 1e-10, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS([weights, biases], **settings)

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = nn.functional.cross_entropy(weights * fit.log() + biases, validation.labels)
            value.backward()
            return value

        optimizer.step(loss)
        return float(nn.functional.cross_entropy(weights * p.log() + biases, y))

    temperature = temperature_scaling.fit_temperature(fit, validation.labels)
    scaled, vectored = nll(temperature_scaling.scale(p, temperature)), nll(vector(fit, validation.labels)(p))
    return [
        ("NLL, temperature", scaled, "torch-uncertainty", lambda: scaler("TemperatureScaler"),
         "theirs stops at 1.0145, worse in validation NLL by 2e-07; ours at 1.0152"),
        ("NLL, vector", vectored, "torch", by_gradient, "where either fit stopped"),
        ("NLL, vector", vectored, "torch-uncertainty", lambda: scaler("VectorScaler", num_classes=CLASSES),
         "theirs has weights and no biases"),
        ("NLL, isotonic", nll(isotonic(fit, validation.labels)(p)), "scikit-learn", steps, ""),
    ]  # fmt: skip


def row(metric: str, ours: float, package: str, theirs: Callable[[], float], why: str) -> list[str]:
    """Make a row; of a package that is not there, or lacks what it needs, it says so."""
    try:
        version, value = metadata.version(package), float(theirs())
    except (ImportError, metadata.PackageNotFoundError) as error:
        return [metric, f"{ours:.6f}", "", package, "", f"not compared: {error}"]
    gap = value - ours
    return [metric, f"{ours:.6f}", f"{value:.6f}", f"{package} {version}", f"{gap:.1e}", why if abs(gap) > 1e-6 else ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    torch.set_num_threads(1)
    validation, test, other = predictions()
    compared = scored(test) + detected(test, other) + recalibrated(validation, test)
    what = f"{len(test.labels)} noisy digits, {MEMBERS} logistic regressions as samples; {VALIDATION} to validate, 500 others."
    head = ["metric", "ours", "theirs", "package", "difference", "why"]
    text = f"{caption(what, 1, ['scikit-learn'])}\n\n{table(head, [row(*each) for each in compared])}\n"
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
