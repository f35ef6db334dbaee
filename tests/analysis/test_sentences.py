"""Effects in the sentences of pages, which no table or answer has, and settings that pages state, come out of the records."""

import re
from statistics import fmean as mean

import pytest
from helpers.published import RESULTS, load, page

from analysis.comparison.effects import after_scaling, contrasts, differences
from analysis.records.repeats import STRONGER, gather
from analysis.report.trends import trends
from analysis.stats.statistics import difference, fixed, holm
from mldiv.records.checked_files import read_lines
from mldiv.records.study_files import trial_folder

PLAIN, BOTH = "no diversity", "both terms"
PAPER, APART, ONE = "scratch + pretrained", "both pretrained, two seeds", "both pretrained, one seed"
PARAMETER, FEATURE = "parameter term alone", "feature term alone"
LATER, LAST = ["after 1/3", "after 2/3, without the terms"], ["after 2/3", "after 1/3, without the terms"]
SIZED = "prior of each layer's size, KL"
WIDE = "epochs / 4, width x 2"

#: A study, arms that are added, arms that are taken away, whose, in what, the sentence on its page.
SAID = (
    ("ablation_long", ["mutual learning"], ["two single BNNs"], STRONGER, "nll", "the stronger one by {}. Deterministic"),
    (
        "ablation_long", ["deterministic mutual learning"], ["two deterministic networks"], STRONGER, "nll",
        "the stronger one {}. Public",
    ),
    ("ablation_long", ["two single BNNs"], ["two deterministic networks"], "peers", "nll", "[0.010, 0.021] and {}."),
    ("ablation_long", ["with feature diversity"], ["with parameter diversity"], "peers", "nll", "single peers by {}. On"),
    ("ablation/taught_less_small", ["with feature diversity"], ["mutual learning"], None, "accuracy", "costs the pair {} p"),
    ("balance/cifar100_terms", ["with parameter diversity"], ["mutual learning"], None, "apart", "at {} points more of dis"),
    ("kernels_feature", ["polynomial"], ["cosine"], None, "ece", "polynomial better than cosine by {}"),
    ("initialization", [PAPER, f"{ONE}, {PLAIN}"], [f"{PAPER}, {PLAIN}", ONE], None, "nll", "is higher by {}, from two"),
    ("initialization", [APART, f"{ONE}, {PLAIN}"], [f"{APART}, {PLAIN}", ONE], None, "nll", "networks by {} (contrasts"),
    ("initialization", [ONE], [f"{APART}, {PLAIN}"], None, "nll", "(1.099; {}), which"),
    ("initialization", [ONE], [f"{ONE}, {PLAIN}"], "peers", "nll", "Single peers pay {}."),
    ("initialization", [f"{ONE}, {PLAIN}"], [f"{PAPER}, {PLAIN}"], None, "nll", "it is worth {} (one seed)"),
    ("one_start", [FEATURE], [PARAMETER], None, "nll", "are not told apart: {}."),
    ("one_start", ["both 0.5"], [BOTH], None, "nll", "worse than 0.2, by {}."),
    ("one_start", ["both 0.5"], [PLAIN], None, "scaled", "both at 0.5 cost {} ("),
    ("one_start", [BOTH], [PLAIN], None, "scaled", "both at 0.2 gain {}, the"),
    ("one_start", [BOTH], [PLAIN], "peers", "scaled", "scaled: {} with both"),
    ("one_start", [PARAMETER], [PLAIN], "peers", "scaled", "0.2, {} under the"),
    ("switch", LATER, LAST, None, "nll", "adds {} to their cost"),
    ("switch", LATER, LAST, None, "accuracy", "NLL and {} points"),
    ("diversity_form/today", [PARAMETER], [FEATURE], None, "nll", "costs the pair {} more than the feature term (p 0.005"),
    ("diversity_form/today", ["parameter: by layer"], [BOTH], None, "nll", "{} more than the raw distance"),
    ("diversity_form/today", ["feature: not centered"], [BOTH], None, "nll", "not centered worse by {}; a"),
    ("diversity_form/today", ["fusion: learns the term"], [BOTH], None, "nll", "here too: {} better"),
    ("recipe", [f"{SIZED} 1"], [f"{SIZED} 0.3"], None, "nll", "by the means ({} of NLL"),
    ("recipe", [f"{SIZED} 1"], [f"{SIZED} 0.3"], None, "accuracy", "told in accuracy, {} points"),
    ("teaching", ["weight 0.3, T 4"], ["never"], STRONGER, "nll", "nothing is told, {})"),
    (
        "budget", ["deterministic mutual learning, epochs / 16"], ["two deterministic networks, epochs / 16"], "peers", "nll",
        "peers gain {}, the stronger",
    ),
    ("budget", [f"with feature diversity, {WIDE}"], [f"with parameter diversity, {WIDE}"], None, "nll", "costs {} less than"),
)  # fmt: skip


def ways(effect):
    """Yield an effect as sentences have it: with one to three digits, whichever the sign."""
    ends = effect.interval
    for digits in (1, 2, 3):
        for mean_, low, high in ((effect.mean, *ends), (-effect.mean, -ends[1], -ends[0])):
            yield f"{fixed(mean_, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def made(name, plus, minus, whose, what):
    study = load(RESULTS / name)
    if what == "apart":
        (arm,), (base,) = (
            ({seed: trial.generalized["test"] for seed, trial in study.finished(of).items()} for of in plus),
            minus,
        )
        without = {seed: trial.generalized["test"] for seed, trial in study.finished(base).items()}
        return difference([100 * (arm[seed]["disagreement"] - without[seed]["disagreement"]) for seed in arm])
    repeats = gather(study, whose)
    if what == "scaled":
        return after_scaling(repeats, *minus, plus)["nll"][plus[0]]
    return contrasts(repeats, {"it": dict.fromkeys(plus, 1.0) | dict.fromkeys(minus, -1.0)}, [what])[what]["it"]


@pytest.mark.parametrize("name, plus, minus, whose, what, sentence", SAID)
def test_an_effect_in_a_sentence(name, plus, minus, whose, what, sentence):
    found = made(name, plus, minus, whose, what)
    assert any(sentence.format(way) in page(name) for way in ways(found)), found.text(3)


@pytest.mark.parametrize(("whose", "sentence"), [(None, "gives the pair {}, single"), ("peers", "single peers {} (the six")])
def test_what_a_smaller_weight_of_mutual_learning_gives(whose, sentence):
    """Of two studies, whose seeds see the same images in training and test."""
    one, less = (gather(load(RESULTS / name), whose)["mutual learning"] for name in ("ablation", "ablation/taught_less"))
    assert {of.record.data["fingerprint"] for of in [*one.values(), *less.values()]} == {one[1].record.data["fingerprint"]}
    found = contrasts({"1": one, "0.3": less}, {"it": {"1": 1.0, "0.3": -1.0}}, ["nll"])["nll"]["it"]
    assert any(sentence.format(way) in page("ablation") for way in ways(found)), found.text(3)


def test_what_grows_in_accuracy_is_corrected_over_the_effects():
    study = load(RESULTS / "budget")
    found = {of.effect: of.slope for of in trends(study, gather(study)) if (of.axis[:6], of.metric) == ("images", "accuracy")}
    p = dict(zip(found, holm([slope.p for slope in found.values()]), strict=True))
    assert min(p, key=p.get) == "parameter diversity" and sorted(p.values())[1] > 0.05
    said = "the parameter term's does, {} points for each doubling" + f" ({p['parameter diversity']:.3f})"
    assert any(said.format(way) in page("budget") for way in ways(found["parameter diversity"])), found


#: A study, what its arms are compared with, whose, how many of how many in NLL stay after Holm's correction, and the sentence.
STAY = (
    ("kernels_alive", "cosine", None, 2, 5, "of five, two stay after Holm's correction for the pair, three for single peers"),
    (
        "kernels_alive",
        "cosine",
        "peers",
        3,
        5,
        "of five, two stay after Holm's correction for the pair, three for single peers",
    ),
    ("kernels_feature", "cosine", None, 0, 5, "which is worse, and not after Holm's correction over five"),
    ("kernels_feature", "mutual learning", None, 6, 6, "all six are decided and stay so after Holm's correction"),
    ("one_start", PLAIN, None, 3, 6, "0.1 does not stay after Holm's correction over six"),
    ("diversity_form", PLAIN, None, 8, 10, "those of one schedule not after Holm's correction, p 0.055"),
    ("recipe", "defaults", None, 5, 17, "Holm's correction over all seventeen leaves five"),
    ("ablation_long", "mutual learning", None, 6, 6, "all six verdicts stay after Holm's correction"),
    ("ablation/taught_less", "mutual learning", None, 3, 3, "all three verdicts stay after Holm's correction"),
)


@pytest.mark.parametrize("name, base, whose, stay, of, sentence", STAY)
def test_what_stays_after_holms_correction(name, base, whose, stay, of, sentence):
    study = load(RESULTS / name)
    arms = [arm for arm in study.arms if arm not in (base, "mutual learning")]
    found = differences(gather(study, whose), base, arms, ["nll"])["nll"].values()
    assert (sum(effect.adjusted < 0.05 for effect in found), len(found)) == (stay, of) and sentence in page(name)


def test_what_a_small_weight_gives_single_peers_is_corrected_over_arms_and_looks():
    study, arm = load(RESULTS / "teaching"), "weight 0.3, T 4"
    p = differences(gather(study, "peers"), "never", study.arms, ["nll"])["nll"][arm].adjusted
    assert f"stays (p = {p:.3f}; not if the two looks are counted, {2 * p:.2f})" in page("teaching")
    assert f"p {2 * p:.2f} after Holm over nine and two looks" in (RESULTS.parents[1] / "RESULTS.md").read_text()


def curves(name, arm):
    """Validation NLL of the pair after each epoch, mean over seeds."""
    study = load(RESULTS / name)
    lines = [read_lines(trial_folder(study.folder, of.id) / "metrics.jsonl") for of in study.finished(arm).values()]
    return [mean(line["validation"]["pair"]["nll"] for line in of_epoch) for of_epoch in zip(*map(list, lines), strict=True)]


def test_the_learning_curves_of_the_long_ablation():
    titles, _, *rows = page("ablation_long").split("| | 8 | 16 |")[1].split("\n\n")[0].splitlines()
    epochs = [8, 16, *map(int, re.findall(r"\d+", titles))]
    for row in rows:
        name, *values = (cell.strip() for cell in row.strip("|").split("|"))
        made_ = curves("ablation_long", {"two Bayesian networks that never met": "two single BNNs"}.get(name, name))
        assert values == [f"{made_[epoch - 1]:.3f}" for epoch in epochs], name
    assert len(rows) == 7


def test_how_long_a_term_that_costs_leads():
    """On all images of CIFAR-100, in validation NLL, of the epochs of stage two."""
    term, none = (curves("balance/long_cifar100", arm)[32:] for arm in ("with parameter diversity", "mutual learning"))
    ahead = [of < other for of, other in zip(term, none, strict=True)]
    assert ahead == [True] * 14 + [False] * 2 and "for the first fourteen of the sixteen epochs of stage two" in page("balance")


def test_at_how_many_points_a_balance_was_searched():
    for name in ("cifar10", "cifar100", "vit_digits", "vit_cifar10"):
        points = [(of.config["alpha"], of.config["beta"]) for _, of in load(RESULTS / "balance" / name).searched]
        assert (len(points), len(set(points)), points.count((0, 0))) == (32, 14, 6), name
    assert "16 trials at 14 points, (0, 0) three times, each trained with two seeds" in page("balance")


def test_why_a_pair_loses_where_its_peers_teach_harder():
    study, text = load(RESULTS / "teaching"), page("teaching")
    arms = ["never", *(f"weight {weight}, T 1" for weight in ("0.3", "1", "3"))]
    seen = {arm: [of.generalized["test"] for of in study.finished(arm).values()] for arm in arms}
    apart, gain = ([mean(of[key] for of in seen[arm]) for arm in arms] for key in ("over_error", "gain"))
    assert "{:.2f} for two that never met, {:.2f}, {:.2f} and {:.2f} at".format(*apart) in text
    assert "over one of them: {:.3f}, {:.3f}, {:.3f} and {:.3f} of NLL".format(*gain) in text


def test_teaching_begins_its_rate_anew():
    study = load(RESULTS / "teaching")
    trial = study.finished("never")[1]
    rates = [line["lr"] for line in read_lines(trial_folder(study.folder, trial.id) / "metrics.jsonl")]
    assert (
        rates[0] == rates[16] > rates[15] and len(rates) == 24 and "16 + 8 epochs with the rate begun anew" in page("teaching")
    )
    same = {seed: of.id for seed, of in load(RESULTS / "ablation").finished("mutual learning").items() if seed <= 5}
    assert same == {seed: of.id for seed, of in study.finished("weight 1, T 1").items()}


@pytest.mark.parametrize("name", [
    "ablation", "ablation/taught_less", "ablation_long", "balance/cifar10", "balance/cifar100", "balance/cifar100_terms",
    "balance/vit_digits", "balance/vit_cifar10", "balance/long_cifar10", "balance/long_cifar100", "budget", "diversity_form",
    "diversity_form/tenth", "diversity_form/today", "initialization", "kernels_alive", "kernels_feature", "kernels_long",
    "one_start", "recipe", "recipe/today", "switch", "teaching",
])  # fmt: skip
def test_a_page_names_the_commits_of_its_records(name):
    study = load(RESULTS / name)
    commits = {of.environment["commit"].split()[0] for arm in study.arms for of in study.finished(arm).values()}
    assert not [commit for commit in commits if commit not in page(name)]


def test_studies_of_the_same_images_share_their_plain_pairs():
    """Of CIFAR-10: those on test images, and those on images held out."""
    for plain in (
        {"ablation": "mutual learning", "balance/cifar10": "mutual learning", "kernels_feature": "mutual learning",
         "teaching": "weight 1, T 1", "initialization": f"{PAPER}, {PLAIN}"},
        {"diversity_form/today": PLAIN, "kernels_alive": "mutual learning", "recipe/today": "defaults",
         "switch": "after 2/3, without the terms"},
    ):  # fmt: skip
        of = [
            {seed: trial.id for seed, trial in load(RESULTS / name).finished(arm).items() if seed <= 5}
            for name, arm in plain.items()
        ]
        assert of[0] and all(same == of[0] for same in of)
    assert "Studies of the same images share trials, plain pairs above all" in (RESULTS.parents[1] / "RESULTS.md").read_text()
