"""What the page of few images says of pushes on CIFAR-100, beside its tables, comes out of its records."""

from statistics import fmean

import pandas as pd
import pytest
from helpers.published import RESULTS, load, page, row, short

from analysis.build import analyse
from analysis.comparison.effects import after_scaling, contrasts, differences
from analysis.records.repeats import STRONGER, gather
from analysis.stats.statistics import difference, holm
from analysis.tables import means
from mldiv.records.checked_files import read_lines
from mldiv.records.study_files import trial_folder

#: Seeds of few images of CIFAR-100: those that were looked at, and those of which two questions were asked again.
OLD, NEW = (1, 2, 3, 4), (5, 6, 7, 8)
APART, ZERO, SURE = "apart from the peer", "away from zero", "deterministic, no push"
THIRD, THIRD_ENDED = "a third of the prior's weight", "no push, a third of the prior in stage two"


def test_two_accuracies_of_cifar100_are_asked_of_the_new_seeds_alone():
    repeats, rows, p = gather(load(RESULTS / "few_images_cifar100" / "placebo")), [], []
    for baseline, arm in (("mutual learning", "apart from the peer"), ("apart from the peer", "away from zero")):
        of_seeds = [
            {name: {seed: of[seed] for seed in seeds} for name, of in repeats.items()} for seeds in (OLD, NEW, OLD + NEW)
        ]
        old, new, both = (differences(of, baseline, [arm], ["accuracy"])["accuracy"][arm] for of in of_seeds)
        rows.append([old.text(2), new.text(2), both.text(2)])
        p.append(new.p)
    for (old, new, both), corrected in zip(rows, holm(p), strict=True):
        said = f"| {old} | {new} | {corrected:{'.3f' if corrected < 0.01 else '.2f'}} | {both} |"
        assert said in page("few_images_cifar100"), said


def test_what_pushes_add_at_lower_rates_on_few_images_of_cifar100():
    """The table, and what was asked first: either push at 0.034 and half the rate, in accuracy, corrected over the two."""
    study, text, p = load(RESULTS / "few_images_cifar100" / "rates"), page("few_images_cifar100"), {}
    for arm in study.arms[1:]:
        push, _, rate = arm.rpartition(", ")
        line, p[arm] = row(study, f"no push, {'the whole rate' if push == 'no push' else rate}", arm)
        assert line in text, line
    first = [p[f"{push}, 0.034, half the rate"] for push in ("apart from the peer", "away from zero")]
    assert max(holm(first)) < 1e-4 and "(p < 0.0001 each after Holm)" in text


def test_what_pushes_add_at_half_the_rate_by_the_new_seeds_alone():
    repeats, base = gather(load(RESULTS / "few_images_cifar100" / "rates")), "no push, half the rate"
    new = {arm: {seed: of[seed] for seed in NEW} for arm, of in repeats.items()}
    term, push = (f"{name}, 0.034, half the rate" for name in ("apart from the peer", "away from zero"))
    term, push = (differences(new, base, [arm], ["accuracy"])["accuracy"][arm].text(2)[1:] for arm in (term, push))
    term, push = (of.replace("+", "") for of in (term, push))
    assert f"the term adds {term} points and the push {push}" in page("few_images_cifar100"), (term, push)


def test_which_weights_push_gains_and_whose():
    """The table, and what was asked first: each push of a part, and of deterministic peers, in accuracy."""
    study, text, p = load(RESULTS / "few_images_cifar100" / "parts"), page("few_images_cifar100"), {}
    for arm in study.arms[1:]:
        line, p[arm] = row(study, "deterministic, no push" if arm.startswith("deterministic, a") else "no push", arm)
        assert line in text, line
    first = [arm for arm in study.arms if arm.endswith(("classifier", "others")) or arm.startswith("deterministic, a")]
    corrected = dict(zip(first, holm([p[arm] for arm in first]), strict=True))
    assert [f"{corrected[arm]:.1g}" for arm in first] == ["0.03", "0.2", "0.0004", "0.2", "0.2", "0.6"]
    assert "p 0.03 and 0.0004 after Holm over six)" in text and "is not told after it (0.18 both)" in text
    assert {f"{corrected[arm]:.2f}" for arm in first if "others" in arm} == {"0.18"}


def test_what_pushes_add_under_a_lighter_prior():
    study, text, p = load(RESULTS / "few_images_cifar100" / "prior"), page("few_images_cifar100"), []
    pushed = [f"{push}, {THIRD}" for push in (APART, ZERO)]
    for arm in [*pushed, "a tenth of the prior's weight"]:
        line, of = row(study, THIRD, arm)
        assert line in text, line
        p.append(of)
    term, push = holm(p[:2])
    lighter, whole = (study.finished(arm) for arm in (THIRD, "no push"))
    apart = difference([lighter[seed].validation["pair"]["nll"] - whole[seed].validation["pair"]["nll"] for seed in whole])
    assert f"in NLL ({apart.text(3)}, over seeds)" in text, apart
    assert f"which is not told** (p {term:.2f})" in text and f"(p {push:.3f}), at 0.025 of NLL" in text


def test_what_else_a_lighter_prior_changes():
    """Sigmas, the distance of the means, and what the push away from zero loses under it."""
    (prior, parts), text = (
        (load(RESULTS / "few_images_cifar100" / name) for name in ("prior", "parts")),
        page("few_images_cifar100"),
    )
    sigma, apart = (
        means(analyse(RESULTS / "few_images_cifar100" / "parts").table, name) for name in ("sigma_over_mean", "w2_per_weight")
    )
    assert f"({sigma[THIRD]:.1f} % of the means instead of {sigma['no push']:.1f} %)" in text, sigma
    assert f"(W2² {apart[SURE]:.3f} and {apart[THIRD]:.3f} a weight)" in text, apart
    lighter, light, whole, none = (
        {seed: 100 * trial.test["pair"]["accuracy"] for seed, trial in study.finished(arm).items()}
        for study, arm in ((prior, f"{ZERO}, {THIRD}"), (prior, THIRD), (parts, ZERO), (parts, "no push"))
    )
    less = difference([whole[seed] - none[seed] - lighter[seed] + light[seed] for seed in none]).text(2)[1:].replace("+", "")
    assert f"loses {less} points (over seeds" in text, less


#: Looked up afterwards: a study, arms that are added, arms that are taken away, in what, the sentence.
CONTRASTS = (
    (
        "prior", [f"{APART}, the whole prior", THIRD], [f"{APART}, {THIRD}", "no push"], "accuracy",
        "that is not told ({} points less;",
    ),
    ("prior", [f"{APART}, {THIRD}", "no push"], [f"{APART}, the whole prior", THIRD], "nll", "in NLL it is ({} worse)"),
    ("parts", [APART, SURE], [f"deterministic, {APART}", "no push"], "accuracy", "pair in accuracy is {} and"),
    ("parts", [ZERO, SURE], [f"deterministic, {ZERO}", "no push"], "accuracy", "and {} points more (looked up"),
    (
        "parts", [APART, "no push"], [f"{APART}, classifier", f"{APART}, all others"], "accuracy",
        "what the push of all weights gains ({} and",
    ),
    ("parts", [ZERO, "no push"], [f"{ZERO}, classifier", f"{ZERO}, all others"], "accuracy", "and {} points less; looked up"),
)  # fmt: skip


@pytest.mark.parametrize("name, plus, minus, metric, sentence", CONTRASTS)
def test_what_was_looked_up_of_parts_and_the_prior(name, plus, minus, metric, sentence):
    weights = dict.fromkeys(plus, 1.0) | dict.fromkeys(minus, -1.0)
    found = contrasts(gather(load(RESULTS / "few_images_cifar100" / name)), {"it": weights}, [metric])[metric]["it"]
    said = sentence.format(found.text(2 if metric == "accuracy" else 3).replace("+", ""))
    assert said in page("few_images_cifar100"), said


def test_what_pushes_add_without_noise_and_without_pull():
    """The table, what was asked first, in accuracy, corrected over the four, and how small the noise is without pull."""
    study, text, p = load(RESULTS / "few_images_cifar100" / "noise"), page("few_images_cifar100"), {}
    for arm in study.arms[1:]:
        push, _, lacking = arm.rpartition(", ")
        line, p[arm] = row(study, lacking if push else "no push", arm)
        assert line in text, line
    asked = [f"{push}, no {lacking}" for push in (ZERO, APART) for lacking in ("noise", "pull")]
    corrected = dict(zip(asked, holm([p[arm] for arm in asked]), strict=True))
    zero, apart = corrected[f"{ZERO}, no noise"], corrected[f"{APART}, no noise"]
    assert f"(p {zero:.4f} after Holm over four)" in text and f"is not told after it (p {apart:.2f})" in text, (zero, apart)
    assert min(corrected[f"{push}, no pull"] for push in (ZERO, APART)) > 0.5
    sigma = means(analyse(RESULTS / "few_images_cifar100" / "noise").table, "sigma_over_mean")["no pull"]
    assert f"(sigma over mean {sigma:.1f} % instead of 8.9 %)" in text, sigma


STAGES, ENDED = "few_images_cifar100/stages", "no push, no prior in stage two"


def test_pushes_gain_against_the_prior_of_stage_two():
    """The table, and both families of tests as they were stated."""
    study, text, p = load(RESULTS / STAGES), page("few_images_cifar100"), {}
    repeats, ece = gather(study), means(analyse(RESULTS / STAGES).table, "ece")
    for arm in study.arms:
        if arm != study.baseline:
            line, p[arm] = row(study, study.baseline, arm)
            assert f"{line}{ece[arm]:.1f} % |" in text, line
    found = contrasts(repeats, study.header.contrasts, ["nll", "accuracy"])
    apart, zero, of_apart, of_zero = found["accuracy"].values()
    pays, pays_more, *_ = (effect.mean for effect in found["nll"].values())
    end, first, second = holm([p[ENDED], apart.p, zero.p])
    said = [f"term costs {short(apart, 2)} points (p {first:.3f} after Holm over three)"]
    said += [
        f"the push away from zero {short(zero, 2)} (p {second:.3f}; less than matters), at {pays:.3f} and {pays_more:.3f} of"
    ]
    scaled = after_scaling(repeats, ENDED, [f"{push}, no prior in stage two" for push in (APART, ZERO)])["nll"]
    said += ["NLL, {:.3f} and {:.3f} after temperature scaling".format(*(effect.mean for effect in scaled.values()))]
    said += [f"gains is {short(of_apart, 2)} and {short(of_zero, 2)} points (p < 0.0001"]
    assert max(end, *holm([of_apart.p, of_zero.p])) < 1e-4 and [sentence for sentence in said if sentence not in text] == []
    assert max(apart.mean, zero.mean) < 0 < min(of_apart.mean, of_zero.mean)


def test_what_the_end_of_the_prior_changes_without_a_push():
    study, text = load(RESULTS / STAGES), page("few_images_cifar100")
    repeats, baseline, arms = gather(study), study.baseline, [arm for arm in study.arms if arm != study.baseline]
    nll, points = differences(repeats, baseline, arms, ["nll", "accuracy"]).values()
    third, peers = nll[THIRD_ENDED], differences(gather(study, "peers"), baseline, [ENDED], ["nll"])["nll"][ENDED]
    more = contrasts(repeats, {"it": {ENDED: 1.0, APART: -1.0}}, ["accuracy"])["accuracy"]["it"]
    said = [
        f"push**: {short(points[ENDED], 2)} points (p < 0.0001 after Holm over three), {short(more, 2)} more than that term"
    ]
    said += [f"the pair pays {short(nll[ENDED], 3)} of NLL, its peers {peers.mean:.3f}; after temperature scaling"]
    said += [f"the pair gains {short(after_scaling(repeats, baseline, [ENDED])['nll'][ENDED], 3)}"]
    said += [f"both, {short(third, 3)} of NLL (p {third.adjusted:.2f} after Holm over six)"]
    said += [f"and {short(points[THIRD_ENDED], 2)} points (described)"]
    said += [f"gain accuracy as above, {short(points[APART], 2)} and {short(points[ZERO], 2)} points"]
    here, older = repeats[baseline], gather(load(RESULTS / "few_images_cifar100" / "rates"))["no push, the whole rate"]
    apart = [here[seed].record.test["pair"]["nll"] - older[seed].record.test["pair"]["nll"] for seed in older]
    said += [f"by up to {max(map(abs, apart)):.3f} of NLL and by {abs(fmean(apart)):.3f} in the mean"]
    assert [sentence for sentence in said if sentence not in text] == []


def test_an_equal_share_is_no_equal_push_where_means_are_longer():
    study, text = load(RESULTS / "few_images_cifar100" / "noise"), page("few_images_cifar100")

    def push(arm):
        """Its distance at the switch, as it is, and its gradient's length in stage two, mean over seeds."""
        lengths = [
            length
            for trial in study.finished(arm).values()
            for line in read_lines(trial_folder(study.folder, trial.id) / "metrics.jsonl")
            for point in line["gradients"]
            for name, length in point.get("param_diversity", {}).items()
            if line["stage"] == 2 and name.startswith("mean_")
        ]
        return fmean(trial.switch["param_distance"] for trial in study.finished(arm).values()), fmean(lengths)

    for arm in (APART, ZERO):
        (distance, gradient), (without, smaller) = push(arm), push(f"{arm}, no pull")
        assert f"{(without / distance) ** 0.5:.1f} times as long at the switch" in text, without / distance
        assert f"gradient is {smaller / gradient:.1f} times as long in stage two" in text, smaller / gradient


def test_a_pair_without_noise_is_ahead_of_a_deterministic_one():
    """Of two studies with the same images and seeds."""
    noise, parts = (gather(load(RESULTS / "few_images_cifar100" / name)) for name in ("noise", "parts"))
    assert len({of.record.data["fingerprint"] for of in [*noise["no noise"].values(), *parts[SURE].values()]}) == 1
    both = {"no noise": noise["no noise"], SURE: parts[SURE]}
    found = contrasts(both, {"it": {SURE: 1.0, "no noise": -1.0}}, ["nll"])["nll"]["it"].text(3)
    points = contrasts(both, {"it": {"no noise": 1.0, SURE: -1.0}}, ["accuracy"])["accuracy"]["it"].text(2)
    said = f"by {found} of NLL and {points} points".replace("+", "")
    assert said in page("few_images_cifar100"), said


def test_what_a_smaller_weight_of_mutual_learning_gives_on_few_images():
    """The table, and what was asked first: the pair in NLL against networks that never met, what pushes add in accuracy."""
    study, text, p = load(RESULTS / "few_images_cifar100" / "teaching"), page("few_images_cifar100"), {}
    for arm in study.arms:
        if arm != "never":
            line, p[arm] = row(study, "weight 0.3" if arm.endswith(", weight 0.3") else "never", arm)
            assert line in text, line
    pair, peers, stronger = (gather(study, whose) for whose in (None, "peers", STRONGER))
    soft = ["weight 0.3", "weight 0.3, T 4"]
    found = differences(pair, "never", soft, ["nll"])["nll"]
    pushes = [f"{push}, weight 0.3" for push in (APART, ZERO)]
    apart, zero, *nll = holm([*(p[arm] for arm in pushes), *(found[arm].p for arm in soft)])
    assert f"(p {apart:.3f} and {zero:.4f} after Holm over four)" in text and min(nll) > 0.9, (apart, zero, nll)
    first, second = (found[arm].text(3).replace("+", "") for arm in soft)
    assert f"{first} at T 1 and {second} at T 4" in text, (first, second)
    scaled, strong = after_scaling(peers, "never", soft)["nll"], differences(stronger, "never", soft, ["nll"])["nll"]
    for of, said in ((scaled, "{} and {} after temperature scaling"), (strong, "{} and {} (looked up afterwards)")):
        ends = [(-of[arm].mean, -of[arm].interval[1], -of[arm].interval[0]) for arm in soft]
        assert said.format(*("{:.3f} [{:.3f}, {:.3f}]".format(*end) for end in ends)) in text, ends
    corrected = differences(pair, "never", [arm for arm in study.arms if arm != "never"], ["accuracy"])["accuracy"]
    low, high = sorted(corrected[arm].adjusted for arm in soft)
    assert f"over the five arms (p {low:.2f} and {high:.2f})" in text


def test_whether_bayesian_networks_lead_by_their_noise_or_by_their_decay():
    """The table, what the searches chose, what was asked first, in NLL, and the contrasts of the sentences."""
    study, text = load(RESULTS / "few_images_cifar100" / "posterior"), page("few_images_cifar100")
    sure, bayes, silent, decay, prior = study.arms
    for arm in study.arms[1:]:
        assert row(study, sure, arm)[0] in text, arm
    chosen = [
        {trial.config[name] for trial in study.finished(arm).values()}
        for arm, name in ((decay, "weight_decay"), (prior, "kl_weight"))
    ]
    assert [[f"{value:.2g}" for value in values] for values in chosen] == [["0.0027"], ["0.21"]]
    asked = {
        "decay": {decay: 1, sure: -1},
        "both": {decay: 1, prior: -1},
        "pull": {silent: 1, sure: -1},
        "noise": {bayes: 1, silent: -1},
    }
    pair, peers = gather(study), gather(study, "peers")
    nll = contrasts(pair, asked, ["nll"])["nll"]
    p = dict(zip(asked, holm([nll[name].p for name in asked]), strict=True))
    assert p["pull"] < 0.0001 and f"(p {p['decay']:.2f} after Holm over four)" in text and f"(p {p['both']:.2f}), by" in text, p
    points = contrasts(pair, {"both": {prior: 1, decay: -1}}, ["accuracy"])["accuracy"]["both"].text(1)
    scaled, single = after_scaling(pair, prior, [decay])["nll"][decay], after_scaling(peers, decay, [prior])["nll"]
    of_peers = contrasts(peers, {"both": {prior: 1, decay: -1}, "noise": asked["noise"]}, ["nll"])["nll"]
    for said, effect in (
        ("nothing that is told, {}", nll["noise"]), ("of single peers {}", of_peers["noise"]),
        ("is ahead by {} (p", nll["both"]), ("by {} after temperature scaling and", scaled),
        ("the best here, by {}", of_peers["both"]),
    ):  # fmt: skip
        assert said.format(effect.text(3).replace("+", "")) in text, (said, effect.text(3))
    assert f"and by {points} points".replace("+", "") in text, points
    low, high = single[prior].interval
    assert f"scaling {-single[prior].mean:.3f} [{-high:.3f}, {-low:.3f}] behind" in text


def test_how_much_of_a_priors_lead_is_a_stronger_decay_of_the_weights():
    """The table, what was asked first, in NLL, the sentences' differences, and what the stopped search had found."""
    folder, text = RESULTS / "few_images_cifar100" / "decay", page("few_images_cifar100")
    study = load(folder)
    prior, default, everything, weights = study.arms
    for arm in study.arms[1:]:
        assert row(study, prior, arm)[0] in text, arm
    asked = {arm: {weights: 1, arm: -1} for arm in (prior, default, everything)}
    pair = gather(study)
    nll, points = (contrasts(pair, asked, [metric])[metric] for metric in ("nll", "accuracy"))
    p = dict(zip(asked, holm([nll[arm].p for arm in asked]), strict=True))
    assert p[default] < 0.0001 and {f"{p[arm]:.2f}" for arm in (prior, everything)} == {"0.21"}, p
    scaled = after_scaling(pair, prior, [weights])["nll"][weights]

    def size(effect, digits):
        mean, *ends = (abs(effect.mean), *(end if effect.mean > 0 else -end for end in effect.interval))
        return f"{mean:.{digits}f} [{min(ends):.{digits}f}, {max(ends):.{digits}f}]"

    for said, effect, digits in (
        ("gains {} over the default", nll[default], 3), ("costs {} points; from the prior", points[default], 1),
        ("beside it are {} points and", points[prior], 1), ("points and {} of NLL after", scaled, 3),
        ("({} ahead; p 0.21)", nll[everything], 3), ("and {} points ahead", points[everything], 1),
    ):  # fmt: skip
        assert said.format(size(effect, digits)) in text, (said, size(effect, digits))
    found = pd.read_csv(folder / "stopped_search.csv").groupby(["decay_of", "weight_decay"]).validation_nll.mean()
    assert [f"{found['all'][low:].iloc[0]:.2f}" for low in (0.0001, 0.0035, 0.008)] == ["2.95", "2.99", "3.39"]
    assert [f"{found['weights'][low:].iloc[0]:.2f}" for low in (0.0001, 0.006, 0.009)] == ["2.94", "2.96", "3.06"]
    for said in ("0.0035 gives 2.99 and 0.008 3.39 (the default 2.95", "0.0005 gives 2.94, 0.006 2.96, 0.010 3.06"):
        assert said in text
