"""The study of budgets: every effect is of two arms that differ in method alone, at every length and width."""

import numpy as np

from mldiv.config import TrialConfig


def test_every_effect_is_of_two_arms_of_one_size(load_study):
    study, base = load_study("budget"), TrialConfig().replace(epochs=48, switch_epoch=32, pretrain_epochs=16)
    arms = study.arms(base)
    found = study.contrasts(list(arms))
    assert {arms[f"with both, epochs / {divisor}"]["epochs"] for divisor in (2, 4, 8, 16)} == {24, 12, 6, 3}
    assert arms["mutual learning, epochs / 16"]["switch_epoch"] == 2 and arms["with both, epochs / 4, width x 2"]["width"] == 2
    for weights in found.values():
        (arm, other), differ = (arms[name] for name in weights), {"alpha", "beta", "mutual_weight", "posterior"}
        assert sum(weights.values()) == 0
        assert {name for name in arm.keys() | other.keys() if arm.get(name) != other.get(name)} <= differ
    sizes = study.trends(base)
    assert set(sizes) == {"images seen by a peer", "width"} and all(
        name in found for axis in sizes.values() for of in axis.values() for name in of
    )
    assert list(sizes["width"]["both terms"].values()) == [0.5, 1, 2]
    counts = list(sizes["images seen by a peer"]["both terms"].values())
    assert np.allclose(np.diff(np.log2(counts)), 1) and len(counts) == 5
    short = study.arms(TrialConfig().replace(epochs=5, switch_epoch=4))
    assert not [name for name in short if "/" in name]
