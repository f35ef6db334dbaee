"""What check-plugin says of entries: the examples', the package's own, and faulty ones."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from mldiv import __main__ as command
from mldiv.datasets.splits import Shapes
from mldiv.method.losses import PARAM_DISTANCES
from mldiv.plugins import loading
from mldiv.plugins.contracts import CONTRACTS, faults
from mldiv.study import STUDIES
from mldiv.training.loop import make_pair

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "plugin"


def test_the_examples_entries_keep_their_contracts(capsys):
    assert command.main(["check-plugin", str(EXAMPLE / "cauchy.py")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["kernel cauchy: ok", "network two_layers: ok", "data set stripes: ok", "metric top2: ok"]
    assert command.main(["check-plugin", str(EXAMPLE / "column.py")]) == 0
    assert capsys.readouterr().out.splitlines() == ["column top2: ok"]
    assert command.main(["check-plugin", str(EXAMPLE / "cauchy.py")]) == 0
    capsys.readouterr()
    assert command.main(["check-plugin", str(EXAMPLE / "question.py")]) == 0
    assert capsys.readouterr().out.splitlines() == ["study tails: ok"]


def test_placebos_push_as_they_say(capsys):
    """They are no distances, which the contract says; the push away from zero knows no peer."""
    assert command.main(["check-plugin", str(EXAMPLE.parent / "placebo" / "placebo.py")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "distance undo: of equal posteriors it is not 0",
        "distance undo_and_push: of equal posteriors it is not 0; it is no sum over weights: of the weights twice over it "
        "gives 1.28 times as much, in place of 2",
        "distance shuffled: of equal posteriors it is not 0", "distance from_zero: of equal posteriors it is not 0",
        "distance w2_classifier: ok",
        "distance w2_others: its gradient in the means is missing, 0 or not finite, of two posteriors apart",
        "distance from_zero_classifier: of equal posteriors it is not 0",
        "distance from_zero_others: its gradient in the means is missing, 0 or not finite, of two posteriors apart",
        "study placebo: ok", "study placebo_tuned: ok", "study placebo_rates: ok", "study placebo_parts: ok",
        "study placebo_prior: ok", "study placebo_noise: ok", "study placebo_teaching: ok", "study elsewhere: ok",
        "study elsewhere_prior: ok", "study elsewhere_stages: ok", "study stage_two_prior: ok",
        "study prior_tuned: ok", "study few_images_stages: ok",
    ]  # fmt: skip
    own, peer = torch.randn(300, requires_grad=True), torch.randn(300, requires_grad=True)
    pushes = {name: PARAM_DISTANCES[name].function(own, own.exp(), peer, peer.exp()) for name in ("shuffled", "from_zero")}
    of_zero = torch.autograd.grad(pushes["from_zero"], (own, peer), allow_unused=True)
    assert torch.equal(of_zero[0], 2 * own) and of_zero[1] is None
    moved = peer.roll(101)
    expected = (own - moved).square().sum() + (own.exp() - moved.exp()).square().sum()
    assert torch.allclose(pushes["shuffled"], expected)
    large = [torch.rand(4000, dtype=torch.float64) for _ in range(4)]
    for whole in ("w2", "from_zero"):  # of the weights before the classifier of 100 classes, and its own
        parts = [PARAM_DISTANCES[f"{whole}_{part}"].function(*large) for part in ("others", "classifier")]
        assert torch.allclose(sum(parts), PARAM_DISTANCES[whole].function(*large))
        before = PARAM_DISTANCES[whole].function(*(vector[:700] for vector in large))
        assert torch.allclose(parts[0], before)


def test_a_term_ends_the_pull_of_the_prior_alone(tiny):
    """Of 10,000 images, as the study has them: on the means nothing is left of it, beside a push what the push adds."""
    loading.load([loading.find(str(EXAMPLE.parent / "placebo" / "placebo.py"))])
    forces = [force(tiny.replace(**arm)) for arm in STUDIES["elsewhere_stages"].arms.values()]
    pull, undone, pushed, both = (of_means for of_means, _ in forces)
    assert pull.norm() > 0.01 and undone.norm() < 1e-5 * pull.norm()
    assert (both - (pushed - pull)).norm() < 1e-5 * pushed.norm() and (pushed - pull).norm() > pull.norm()
    assert all(torch.equal(of_rho, forces[0][1]) for _, of_rho in forces)


def force(config):
    """The gradient of the prior and the parameter term in a peer's means, and in its rho."""
    pair = make_pair(config, Shapes(classes=10, channels=1, train_images=10_000))
    sigmas = [peer.sigma for peer in pair.peers]
    given = pair.prior_terms(sigmas) | pair.param_terms(sigmas)
    zero = {name: [torch.zeros(())] for name in ("nll", "mutual", "feature_diversity")}
    sum(pair.weighted(zero | given).values()).backward()
    return pair.peers[0].mean.grad, pair.peers[0].rho.grad


OWN = [
    (kind, name)
    for kind, (module, registry) in loading.REGISTRIES.items()
    if kind != "data set"
    for name in getattr(import_module(module), registry)
]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_the_packages_own_entries_keep_their_contracts(kind, name):
    assert kind in CONTRACTS
    if (kind, name) in (("network", "resnet18"), ("network", "vit")):
        pytest.skip("of other sizes of images: test_networks.py, test_vit.py")
    if (kind, name) == ("transform", "negative_sqrt"):
        pytest.skip("its slope at 0 is large on purpose")
    assert faults(kind, name) == []


HEAD = "import torch\nfrom typing import Annotated\nfrom mldiv.method.kernels import KERNELS, Range, cosine\n"


def with_parameter(name, default, ends, value):
    return (
        f"def own(a, b, *, {name}: Annotated[float, Range({ends})] = {default}):\n    return {value}\n"
        "KERNELS['own'] = own"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("KERNELS['own'] = lambda a, b: a @ b.T", "not within [0, 1]"),
        ("KERNELS['own'] = lambda a, b: torch.exp(-torch.cdist(a, b).square())", "it is not free of scale"),
        ("KERNELS['own'] = lambda a, b: torch.sigmoid(a.sum(1)[:, None] + 0 * b.sum(1)).round()", "it is not symmetric"),
        ("KERNELS['own'] = lambda a, b, width: a @ b.T", "its parameter width must come by keyword, with a default"),
        ("KERNELS['own'] = lambda a, b: None", "raises AttributeError"),
        ("KERNELS['own'] = lambda a, b: cosine(a, b).detach()", "no gradient reaches the features"),
        (with_parameter("tail", 1.0, "0.1, 2", "cosine(a, b)[None]"), "similarities of 7 images have the shape (1, 7, 7)"),
        (with_parameter("tail", 3.0, "0.1, 2", "cosine(a, b)"), "ConfigError: kernel_tail = 3.0: must be at most 2"),
        (with_parameter("tail", 1.0, "0.1, 2", "cosine(a, b) * tail"), "not within [0, 1], of tail = 2"),
        (with_parameter("width", 1.0, "0.1, 2", "cosine(a, b)"), "'width' has another default or range than that of 'rbf'"),
        (with_parameter("own", 1.0, "0.1, 2", "cosine(a, b)"), "its parameter own cannot be a setting"),
    ],
)
def test_what_a_kernel_does_not_keep_is_said(write, capsys, line, fault):
    assert command.main(["check-plugin", write(HEAD + line)]) == 1
    assert fault in capsys.readouterr().out


def test_a_whole_number_ends_a_range_and_is_given_as_its_kind(write, capsys):
    kernel = with_parameter("tail", 1.0, "0.1, 10", "cosine(a, b) if isinstance(tail, float) else None")
    assert command.main(["check-plugin", write(HEAD + kernel)]) == 0, capsys.readouterr().out


def test_what_the_package_enters_is_not_the_plugins(tmp_path, write):
    """The analysis is imported by the plug-in first, and its registry of columns with it."""
    own = write("from mldiv.evaluation.metrics import METRICS\nfrom analysis.build import analyse\nMETRICS['own'] = len")
    said = subprocess.run([sys.executable, "-m", "mldiv", "check-plugin", own], capture_output=True, text=True, check=False)
    assert [line.split(":")[0] for line in said.stdout.splitlines()] == ["metric own"], said.stderr


@pytest.mark.parametrize("bounded", [False, True])
def test_a_transform_that_misstates_its_push_is_told(write, capsys, bounded):
    head = "import torch\nfrom mldiv.method.losses import TRANSFORMS, Transform\n"
    function = "lambda x: -torch.log1p(x)" if bounded else "lambda x: torch.exp(-x)"
    assert command.main(["check-plugin", write(f"{head}TRANSFORMS['own'] = Transform({function}, bounded={bounded})")]) == 1
    assert f"and it says bounded={bounded}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("(m - pm).detach().square().sum()", "gradient in the means is missing, 0 or not finite"),
        ("((m - pm).square().sum() - 1e9).clamp_min(0) + 0 * m.sum()", "gradient in the means is missing, 0 or not finite"),
        (
            "(m - pm).square().mean()",
            "it is no sum over weights: of the weights twice over it gives 1 times as much, in place of 2",
        ),
        ("((m - pm) / ps).square().sum()", "of networks without noise it gives inf, and it does not say needs_noise=True"),
        (
            "((m - pm).square() + (s - ps).square()).sqrt().sum()",
            "its gradient is not finite where a weight is the same in both",
        ),
    ],
)
def test_a_distance_that_pushes_at_nothing_or_hides_what_it_needs_is_told(write, capsys, function, said):
    text = "from mldiv.method.losses import PARAM_DISTANCES, Distance\n"
    text += f"PARAM_DISTANCES['own'] = Distance(lambda m, s, pm, ps: {function}, symmetric=False)"
    assert command.main(["check-plugin", write(text)]) == 1
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("registry", "kind"), [("PARAM_DISTANCES", "Distance"), ("TRANSFORMS", "Transform")])
def test_a_bare_function_is_told_what_to_enter(write, capsys, registry, kind):
    assert command.main(["check-plugin", write(f"from mldiv.method.losses import {registry}\n{registry}['own'] = max")]) == 1
    assert f"it is a bare function: enter a {kind}(function" in capsys.readouterr().out


STUDIED = "from mldiv.study import STUDIES, Study\nSTUDIES['own'] = Study(name='own', question='?', scientific='x', "


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("arms={'a': {}}, searched=(), baseline='b')", "baseline names 'b', which is no arm"),
        ("arms={'a': {'kernl': 'rbf'}}, searched=(), baseline='a')", "arm 'a': no setting is called 'kernl'"),
        ("arms={'a': {}}, searched=('peers',), baseline='a')", "it searches 'peers', which is no setting with a range"),
    ],
)
def test_what_a_study_does_not_keep_is_said(write, capsys, rest, fault):
    assert command.main(["check-plugin", write(STUDIED + rest)]) == 1
    assert fault in capsys.readouterr().out
