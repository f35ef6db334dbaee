"""Settings at random, wrong and right: each is refused in one line that names it, or makes a trial that can be trained."""

import dataclasses
import math
import random
from collections import Counter

import pytest
import torch
from helpers.record_fuzz import PART

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.files import DataError
from mldiv.method.pair import term_names
from mldiv.settings.setting import fields
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import make_optimizer, make_pair
from mldiv.training.worker_cache import dataset

pytestmark = pytest.mark.slow

WEIRD = (
    None, True, False, "", "x", "\x1b[31m", "é" * 3, "a" * 5000, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**400, -0.0, 0.5, 1e-320,
    1e-30, 1e30, 1e308, -1e308, math.inf, -math.inf, math.nan, [], [1], {}, {"a": 1}, (1, 2), b"x", 1j, object,
)  # fmt: skip
#: What trains in a fraction of a second.
SMALL = {
    "data": "digits", "arch": "resnet8", "width": 0.1, "train_size": 24, "validation_size": 12, "test_size": 12, "epochs": 1,
    "switch_epoch": 0, "batch_size": 12, "pretrain_epochs": 1, "validation_samples": 1, "test_samples": 1, "fusion_dim": 8,
    "fusion_heads": 2, "ood": "none", "compile": False, "image_size": None, "scale_batches": 1,
    "train_samples": 1, "batchnorm_batches": 0, "fusion_epochs": 1, "fusion_grid": 1, "gradient_points": 0.0,
}  # fmt: skip


def number(draw, item):
    """One of its range, the ends more often than they deserve."""
    bounds = item.metadata["bounds"]
    low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt", 1))
    if "int" in str(item.type):
        step = bounds.get("multiple_of", 1)
        return draw.choice([low, low + step, high, high - 1, draw.randrange(0, 50) * step])
    return draw.choice([float(low), float(high), 10 ** draw.uniform(-3, 2), draw.uniform(0, 1)])


def value(draw, item):
    if item.metadata["choices"] is not None:
        return draw.choice(list(item.metadata["choices"]))
    if item.type is bool:
        return draw.random() < 0.5
    return draw.choice([None, "/nowhere"]) if item.name == "data_root" else number(draw, item)


def settings(draw, wrong):
    """Some settings of their ranges, and of one in three a value out of the blue."""
    items = draw.sample(list(fields(TrialConfig).values()), draw.randrange(1, 12))
    found = {item.name: value(draw, item) for item in items}
    if wrong and draw.random() < 0.33:
        found[draw.choice(list(found))] = draw.choice(WEIRD)
    return found


def test_ten_thousand_are_refused_in_one_line_or_taken():
    draw, taken = random.Random(0), 0
    for number in range(10_000):
        given = settings(draw, wrong=True)
        try:
            config = TrialConfig().replace(**given)
        except ConfigError as error:
            assert any(name in str(error) for name in given), (number, given, str(error))
            assert len(str(error)) < 400 and str(error).isprintable(), (number, given, str(error))
            continue
        taken += 1
        assert len(config.id) == 16, (number, given)
        assert config.replace() == config, (number, given)
        assert TrialConfig().replace(**dataclasses.asdict(config)).id == config.id, (number, given)
    assert 1000 < taken < 9000


def accepted(count, draw):
    """So many configurations that are taken, and what was set in them."""
    found = 0
    while found < count:
        given = {name: value for name, value in settings(draw, wrong=False).items() if name not in SMALL}
        try:
            config = TrialConfig().replace(**SMALL | given)
        except ConfigError:
            continue
        found += 1
        yield config, given


@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_trains_a_step():
    """Two hundred settings, or 1,200 with MLDIV_FUZZ=whole: both stages' terms and gradients, and one step of all weights."""
    ends = Counter()
    for config, given in accepted(1200 // PART, random.Random(2)):
        try:
            data = dataset(config)
        except (ConfigError, DataError) as error:
            assert "\n" not in str(error), given
            ends["refused"] += 1
            continue
        try:
            pair = make_pair(config, data.shapes)
        except ConfigError as error:
            assert "\n" not in str(error), given
            ends["refused"] += 1
            continue
        optimizer = make_optimizer(config, pair)
        shape = config.batch_size, data.shapes.channels, data.shapes.image_size, data.shapes.image_size
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for diverse in (False, True):
            total, terms = pair(images, torch.arange(len(images)) % data.shapes.classes, diverse=diverse)
            assert total.dim() == 0 and len(terms) == len(term_names(config.peers)), given
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        ends["finite" if all(value.isfinite().all() for value in pair.parameters()) else "not finite"] += 1
    print(dict(ends))
    assert ends["finite"] > 0.8 * (ends.total() - ends["refused"]) and ends["refused"] < 0.1 * ends.total()


@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_trains(tmp_path):
    """Forty settings, or 240 with MLDIV_FUZZ=whole: whole trials."""
    ends, trained = set(), 0
    for config, given in accepted(240 // PART, random.Random(1)):
        try:
            record = fit(config, tmp_path / config.id, store=Store(tmp_path / "store"))
        except (ConfigError, DataError) as error:
            assert "\n" not in str(error), given
            continue
        trained += 1
        ends.add(record.status)
        assert record.status in ("finished", "diverged"), given
        if record.status == "finished":
            scores = [score for member in record.test.values() for score in member.values()]
            assert all(math.isfinite(score) for score in scores), given
        else:
            assert record.reason, given
    assert ends == {"finished", "diverged"} and trained > 200 // PART
