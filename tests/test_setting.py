"""Settings as they declare themselves: what each cannot change, as lists that no code reads, and what follows from them."""

import dataclasses
from pathlib import Path

import pytest

from mldiv.cli.settings_page import page
from mldiv.config import ConfigError, TrialConfig
from mldiv.settings.setting import (
    FIRST_STAGE,
    FIRST_STAGE_STEP,
    PRETRAINING,
    STEP,
    TRIAL,
    fields,
    identity,
    make_check,
    setting,
    sparing,
)
from mldiv.sweep.search_space import DIVERSITY, RANGES


def words(text: str) -> set[str]:
    return set(text.split())


SHAPES_OF_DIVERSITY = words(
    "param_distance param_weights param_transform param_normalization kernel kernel_width kernel_degree kernel_own "
    "include_diagonal feature_direction feature_reduction feature_transform feature_normalization center_features"
)
NUMBERS_OF_DIVERSITY = words(
    "alpha beta weighting scale_batches switch_epoch fusion_lr_scale fusion_epochs test_samples stage_two_lr_scale shift_share "
    "stage_two_kl_scale stage_two_warmup_epochs"
)
FUSION = words("fusion fusion_dim fusion_heads fusion_training fusion_blocks fusion_grid param_alignment")
PRETRAINED_BY = words(
    "arch width pretrain_epochs batch_size lr optimizer momentum schedule weight_decay clip_norm precision channels_last seed"
)
OF_NO_TRIAL = words("data_root gradient_points keep_predictions train_labels pretrained")
SEEN_BY_NO_STEP = (
    OF_NO_TRIAL
    | NUMBERS_OF_DIVERSITY
    | words(
        "temperature kl_weight mutual_weight initial_sigma seed split_seed initialization epochs pretrain_epochs lr momentum "
        "optimizer schedule weight_decay rho_lr_scale clip_norm validation_samples samples_at_once "
        "stage_schedule warmup_epochs pretrained_warmup_epochs mean_weight_decay batchnorm_batches "
        "train_labels_hash pretrained_hash"
    )
)
SPARING = {
    TRIAL: OF_NO_TRIAL,
    FIRST_STAGE: SHAPES_OF_DIVERSITY | NUMBERS_OF_DIVERSITY | FUSION | {"ood", "shift_images"} | OF_NO_TRIAL,
    PRETRAINING: {item.name for item in dataclasses.fields(TrialConfig)} - PRETRAINED_BY,
    STEP: SEEN_BY_NO_STEP,
    FIRST_STAGE_STEP: SHAPES_OF_DIVERSITY,
}
PARTS = tuple(SPARING)


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_does_not_depend_on(part):
    assert sparing(TrialConfig, part) == SPARING[part]


def test_what_is_searched():
    assert set(RANGES) == words(
        "lr kl_weight temperature alpha beta kernel kernel_width kernel_degree switch_epoch stage_two_lr_scale "
        "stage_two_kl_scale"
    )
    assert words("alpha beta kernel kernel_width kernel_degree") == DIVERSITY & set(RANGES)


@dataclasses.dataclass(frozen=True)
class Recipe:
    rate: float = setting(0.5, "a rate", gt=0, spares=(PRETRAINING,))


@dataclasses.dataclass(frozen=True)
class Grown(Recipe):
    careless: int = setting(1, "declared with nothing but a default")
    late: bool = setting(False, "added after results were stored", before=True)


def test_a_setting_declared_carelessly_is_part_of_everything():
    assert all("careless" not in sparing(Grown, part) for part in PARTS)
    assert identity(Grown(), PRETRAINING) == {"careless": 1, "late": False}


@pytest.mark.parametrize("part", PARTS)
def test_a_new_setting_changes_no_identity_of_what_was_trained_before(part):
    """Whatever its default is."""
    assert "late" not in identity(Grown(late=True), part)
    assert identity(Grown(), part)["late"] is False


def test_one_and_one_point_nought_are_the_same_setting():
    check = make_check(fields(Recipe))
    assert check({"rate": 1}) == {"rate": 1.0} and type(check({"rate": 1})["rate"]) is float
    with pytest.raises(ConfigError, match="rate = True: expected float"):
        check({"rate": True})


def test_every_setting_says_what_it_is():
    for name, item in fields(TrialConfig).items():
        assert item.metadata["help"] and not item.metadata["help"].endswith("."), name


def test_the_page_of_settings_is_made_from_them():
    assert (Path(__file__).parent.parent / "docs" / "settings.md").read_text() == page()
