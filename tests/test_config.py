import dataclasses

import pytest

from mldiv.config import ConfigError, TrialConfig, from_dict
from mldiv.method.kernels import KERNELS
from mldiv.presets import PRESETS, configure
from mldiv.records.contents import SPARED


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kernal": "rbf"}, "no setting is called 'kernal'; did you mean 'kernel'"),
        ({"kernel": "cosin"}, "kernel = 'cosin' is unknown; did you mean 'cosine'"),
        ({"kernel": "wild"}, "rbf; of your own: name its plug-in, --plugin FILE or plugins=[FILE]"),
        ({"arch": "resnet-20"}, "did you mean 'resnet20'"),
        ({"data": "zzzz"}, "known: cifar10, cifar100, digits"),
        ({"switch_epoch": 301}, "switch_epoch = 301 lies after the end"),
        ({"epochs": 0, "switch_epoch": 0}, "epochs = 0: must be greater than zero"),
        ({"batch_size": 1}, "at least 2"),
        ({"batch_size": -4}, "batch_size = -4: must be at least 2 (the feature term compares the images of a batch)"),
        ({"alpha": -1.0}, "alpha = -1.0: must not be negative"),
        ({"beta": float("nan")}, "beta = nan"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"train_size": 0}, "train_size = 0"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"momentum": 1.0}, "less than 1"),
        ({"fusion_dim": 30}, "multiple of fusion_heads"),
        ({"kernel_degree": 3}, "kernel_degree = 3: must be a multiple of 2 (odd, and similarities turn negative)"),
        ({"pretrain_epochs": 0}, "initialization to 'scratch'"),
        ({"param_transform": "exp", "param_normalization": "sum"}, "gradient 0 in float32"),
        ({"epochs": 3.5}, "epochs = 3.5: expected int"),
        ({"seed": True}, "seed = True: expected int"),
        ({"data": 3}, "data = 3: expected str"),
        ({"alpha": "a" * 10_000}, "...aaaaaaaaa': expected float"),
        ({"image_size": -1}, "image_size = -1: must be greater than zero, or None for all"),
        ({"alpha": float("inf")}, "alpha = inf: must be a finite number"),
    ],
)
def test_bad_settings_name_what_is_wrong(changed, message):
    with pytest.raises(ConfigError) as error:
        TrialConfig().replace(**changed)
    assert message in str(error.value)


def test_identity_is_everything_but_paths():
    base = TrialConfig(stage_schedule="restart")
    assert base.replace(data_root="/elsewhere").id == base.id
    other = {
        "str": lambda value: value,
        "int": lambda value: value + 4,
        "float": lambda value: value * 0.5 + 0.125,
        "bool": lambda value: not value,
    }
    for item in dataclasses.fields(base):
        value = getattr(base, item.name)
        if item.name in SPARED or isinstance(value, str):
            continue
        changed = 32 if value is None else other[type(value).__name__](value)
        assert base.replace(**{item.name: changed}).id != base.id, item.name
    assert base.replace(kernel="rbf").id != base.id


def test_round_trip():
    config = TrialConfig(kernel="rbf", alpha=0.3, seed=4)
    assert from_dict(dataclasses.asdict(config)) == config


def test_kernel_options_are_the_kernels_own():
    assert TrialConfig().kernel_options == {}
    assert TrialConfig(kernel="rbf", kernel_width=2.0).kernel_options == {"width": 2.0}
    assert TrialConfig(kernel="polynomial").kernel_options == {"degree": 2}


def test_a_kernels_parameter_that_is_no_setting_has_its_own_default(monkeypatch):
    monkeypatch.setitem(KERNELS, "scaled", lambda a, b, *, no_setting=0.5: no_setting * a @ b.T)
    assert TrialConfig(kernel="scaled").kernel_options == {"no_setting": 0.5}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    assert configure(name, {}).epochs > 0
    assert configure(name, {"data": "cifar10", "arch": None}).data == "cifar10"


def test_a_studys_settings_lie_between_preset_and_command_line():
    config = configure("small", {"alpha": 3.0}, {"alpha": 0.0, "beta": 0.0})
    assert (config.alpha, config.beta, config.train_size) == (3.0, 0.0, 10_000)


def test_a_networks_recipe_lies_between_preset_and_study():
    """All but what is asked for: the ViT's KL weight, at the presets' of which one peer stays at chance."""
    config = configure("demo", {"arch": "vit", "warmup_epochs": 0.0}, {"lr": 0.1})
    assert (config.optimizer, config.kl_weight, config.lr, config.warmup_epochs) == ("adamw", 0.01, 0.1, 0.0)
    assert configure("demo", {}, {"arch": "vit"}).kl_weight == 0.01
    assert configure("demo", {"arch": "resnet8"}) == configure("demo", {})


def test_demo_cuts_real_data():
    assert configure("demo", {"data": "cifar100"}).train_size and configure("demo", {}).train_size is None
    assert configure("demo", {}, {"data": "cifar100"}) == configure("demo", {"data": "cifar100"}), "a study may say so too"


def test_how_steps_are_computed_is_kept_as_it_was():
    """When there were no graphs, and nothing chose: false, or true. Identities of then, written down."""
    base = TrialConfig()
    assert base.steps == "auto" and base.id == TrialConfig(compile=False).id == "657343292e1580f8"
    assert base.replace(compile="on").id == TrialConfig(compile=True).id == "bac2f87f3e813401"
    assert len({base.id, *(base.replace(compile=how).id for how in ("auto", "on", "graph", "off"))}) == 4
    for value in (False, True, "graph", "off"):
        config = from_dict({"compile": value})
        assert config.compile == dataclasses.asdict(config)["compile"] == value and config.replace().steps == config.steps
    assert base.replace(compile="auto") == base
