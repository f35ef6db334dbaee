"""Whether a setting has an effect in a trial, so that a search asks for it: told by training with another value."""

import pytest
import torch

from mldiv.sweep.arm import make_arm
from mldiv.sweep.search_space import applies

TWIN = {"posterior": "deterministic"}
TAUGHT = {"peers": 1, "teacher": "pretrained", "initialization": "scratch"}
ALONE = {"mutual_weight": 0.0, "alpha": 0.0, "beta": 0.0}

#: What else is set; the setting and another value; whether networks become others.
CASES = [
    (TWIN, "kl_weight", 0.1, False), (TWIN, "prior_std", 2.0, False), (TWIN, "initial_sigma", 0.1, False),
    (TWIN, "sigma_mode", "absolute", False), (TWIN, "prior_mean", "start", False), (TWIN, "mean_weight_decay", 0.1, False),
    (TWIN, "rho_lr_scale", 0.1, False), (TWIN, "weight_decay", 0.1, True),
    ({}, "mean_weight_decay", 0.1, True), ({}, "prior_std", 2.0, True), ({}, "rho_lr_scale", 0.1, True),
    (TWIN, "stage_two_kl_scale", 0.0, False), ({"kl_weight": 0.0}, "stage_two_kl_scale", 0.1, False),
    ({}, "stage_two_kl_scale", 0.0, True), ({"initialization": "scratch"}, "weight_decay", 0.1, False),
    ({"initialization": "scratch_pretrained"}, "weight_decay", 0.1, True),
    ({"alpha": 0.0}, "param_weights", "layer", False), ({}, "param_weights", "layer", True),
    ({"beta": 0.0}, "feature_direction", "forward", False), ({"beta": 0.0}, "fusion_lr_scale", 0.1, False),
    ({"beta": 0.0}, "center_features", False, False), ({}, "center_features", False, True),
    ({"beta": 0.0, "weighting": "raw"}, "scale_batches", 1, False), ({"beta": 0.0}, "scale_batches", 1, True),
    (ALONE, "temperature", 4.0, False), ({}, "temperature", 4.0, True),
    ({"peers": 1}, "mutual_weight", 0.5, False), ({}, "mutual_weight", 0.5, True),
    (TAUGHT, "mutual_weight", 0.5, True), (TAUGHT, "weight_decay", 0.1, True),
    ({}, "fusion_epochs", 2, False), ({"fusion_training": "switch"}, "fusion_epochs", 2, True),
    ({"initialization": "scratch"}, "pretrained_warmup_epochs", 1.0, False),
    ({"initialization": "scratch_pretrained"}, "pretrained_warmup_epochs", 1.0, True),
    ({"initialization": "scratch"}, "pretrain_epochs", 2, False), (TAUGHT, "pretrain_epochs", 2, False),
    ({"initialization": "scratch_pretrained"}, "pretrain_epochs", 2, True),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "name", "value", "acts"), CASES)
def test_a_setting_applies_where_training_with_another_value_ends_elsewhere(tiny, alone, changes, name, value, acts):
    config = tiny.replace(pretrain_epochs=1).replace(**changes)
    assert getattr(config, name) != value
    ended = [
        torch.load(alone(each) / "checkpoint.pt", weights_only=True)["pair"]
        for each in (config, config.replace(**{name: value}))
    ]
    means = [torch.cat([state[f"peer_{number}.mean"] for number in range(1, config.peers + 1)]) for state in ended]
    assert torch.equal(*means) is not acts
    assert applies(name, config) is acts


def test_an_arm_is_not_searched_over_what_does_nothing_there(tiny):
    searched = ("weight_decay", "prior_std", "param_weights")
    ranges = dict.fromkeys(searched, lambda name, trial, config: 1.0)

    def asked(**changes):
        return make_arm("arm", tiny.replace(initialization="scratch"), changes, searched, ranges).searched

    assert asked() == ("prior_std", "param_weights") and asked(**TWIN, alpha=0.0) == ("weight_decay",)
