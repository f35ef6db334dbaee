"""Sentences with numbers, in RESULTS.md, README.md and beside tables of pages, come out of the records in docs/results."""

import re
from statistics import fmean as mean

import pytest
from helpers.published import CHECKOUT, RESULTS, disagreement, load, page, short
from scipy.stats import spearmanr

from analysis.build import analyse
from analysis.comparison.effects import after_scaling, contrasts, contrasts_of_columns, differences, of_columns
from analysis.records.repeats import gather
from analysis.report.trends import trends
from analysis.stats.statistics import difference, holm
from analysis.tables import means

NUMBER = r"[+-]?\d+\.\d+"
EFFECT = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
#: README's rows, and the ablation's arms.
ROWS = {
    "feature term alone": "with feature diversity", "parameter term alone": "with parameter diversity", "both": "with both"
}  # fmt: skip
#: By the column of a page, the arms of small shares in its order.
SMALL = (
    "mutual learning", "apart from the peer", "away from zero", "apart by features", "both terms", "half the rate",
    "a quarter of the rate", "apart at half the rate", "away from zero at half the rate", "both terms at half the rate",
)  # fmt: skip

#: Of the placebos, in the order of the page's sentence.
PUSHES = (
    "away from zero", "apart from the peer", "apart by directions", "apart from a shuffled peer",
    "a third of the prior's weight",
)  # fmt: skip


def effects(text):
    return [tuple(map(float, match)) for match in EFFECT.findall(text)]


@pytest.mark.parametrize("section", re.split(r"\n(?=## )", (CHECKOUT / "RESULTS.md").read_text())[1:])
def test_an_interval_in_results_is_in_an_answer_that_its_section_links(section):
    """Whichever the sign: a gain of 0.015 [0.010, 0.020] is a difference of -0.015 [-0.020, -0.010]."""
    pages = [CHECKOUT / link for link in re.findall(r"\((docs/results/\S+/README\.md)(?:#[^)]*)?\)", section)]
    known = [effect for path in pages for answer in path.parent.rglob("answer.md") for effect in effects(answer.read_text())]
    known += [(-mean, -high, -low) for mean, low, high in known]
    for said in effects(section):
        assert any(said == pytest.approx(effect, abs=6e-4) for effect in known), said


def test_readmes_differences_are_the_ablations():
    made = analyse(RESULTS / "ablation")
    apart, study = means(made.table, "test_disagreement"), made.study
    found = differences(gather(study), study.baseline, study.header.compare, ["nll"])["nll"]
    lines = [f"| no diversity | | | {apart[study.baseline]:.1f} % |"]
    for row, arm in ROWS.items():
        verdict = found[arm].verdict(study.header.margins["nll"], more=False)
        lines.append(f"| {row}, 0.2 | {verdict} | {found[arm].text(4)} | {apart[arm]:.1f} % |")
    assert "\n".join(lines) in (CHECKOUT / "README.md").read_text(), lines


def test_what_readme_says_of_the_demo():
    """How many seeds would decide, what by ECE, and that only the baseline has settings that were found by its search."""
    answer, text = analyse(RESULTS / "demo").answer(), (CHECKOUT / "README.md").read_text()
    seeds = re.search(r"about (\d+ to \d+) could", answer)[1]
    by_ece = answer[answer.index("Difference in test ECE") :].split("\n\n")[1]
    assert f"({seeds} seeds would decide)" in text, seeds
    assert by_ece.count("| better ") == 5 and "By ECE five are *better*" in text
    assert "in 6 of 7 arms (all but mutual learning)" in answer and "the search moved the baseline's settings alone" in text


def more(study, arm):
    """How much more the peers of an arm disagree than those of mutual learning, over seeds, as pages have it."""
    without = disagreement(study, "mutual learning")
    return difference([value - without[seed] for seed, value in disagreement(study, arm).items()]).text(1).replace("+", "")


def test_what_pushes_do_to_disagreement_on_test_images():
    study, text = load(RESULTS / "placebo"), page("placebo")
    zero, peer, turned, shuffled, weaker = (more(study, arm) for arm in PUSHES)
    said = f"away from zero by {zero} points, apart from the peer by {peer}, apart by directions by {turned}, "
    said += f"apart from a shuffled peer by {shuffled}, under a third of the prior's weight by {weaker}"
    assert said in text, said
    said = f"adds {zero.split()[0]} points of disagreement (the parameter term {peer.split()[0]}, not told apart)"
    assert said in (CHECKOUT / "RESULTS.md").read_text(), said


def test_what_small_shares_do_to_disagreement_on_test_images():
    study, text = load(RESULTS / "few_images" / "small"), page("few_images")
    rows = text[text.index("| push | verdict |") :].split("\n\n")[0].splitlines()[2:]
    seen = [disagreement(study, arm).values() for arm in SMALL]
    assert [row.split("|")[-2].strip() for row in rows] == [f"{sum(of) / len(of):.1f} %" for of in seen]
    zero, peer, rate = (more(study, arm) for arm in ("away from zero", "apart from the peer", "half the rate"))
    said = f"by {zero} points under the one and by {peer} under the other, at half the rate without a push by {rate}"
    assert said in text, said


#: Looked up afterwards: study, whose arm is compared with which, of the pair or its peers, in what, the sentence, its page.
LOOKED_UP = (
    ("few_images", "with parameter diversity", "with feature diversity", None, "scaled", "the pair by {}", "few_images"),
    ("few_images", "with parameter diversity", "with feature diversity", "peers", "scaled", "and peers by {}", "few_images"),
    ("placebo/tuned", "apart from the peer", "both terms", None, "nll", "feature term adds {} of NLL", "placebo"),
    ("placebo/tuned", "away from zero", "both terms", None, "scaled", "both terms lie {} behind", "placebo"),
    ("placebo/tuned", "away from zero", "both terms", "peers", "scaled", "the peers {} (over seeds)", "placebo"),
    ("few_images/small", "half the rate", "both terms at half the rate", None, "scaled", "both terms add {}", "few_images"),
    (
        "few_images/small", "half the rate", "away from zero at half the rate", None, "scaled",
        "the push away from zero {}; of", "few_images",
    ),
    (
        "few_images/small", "away from zero at half the rate", "apart at half the rate", "peers", "nll",
        "single peers pay {} less under the term", "few_images",
    ),
    (
        "few_images_cifar100/ablation", "two deterministic networks", "deterministic mutual learning", "peers", "scaled",
        "after scaling {} and", "few_images_cifar100",
    ),
    (
        "few_images_cifar100/ablation", "two single BNNs", "mutual learning", "peers", "scaled", "and {} (over seeds). Peers",
        "few_images_cifar100",
    ),
)  # fmt: skip


@pytest.mark.parametrize("name, base, arm, member, what, sentence, where", LOOKED_UP)
def test_what_was_looked_up_afterwards(name, base, arm, member, what, sentence, where):
    """Whichever the sign, as a sentence says it."""
    repeats = gather(load(RESULTS / name), member)
    found = after_scaling(repeats, base, [arm]) if what == "scaled" else differences(repeats, base, [arm], ["nll"])
    said = found["nll"][arm].text(3)
    mean, low, high = map(float, EFFECT.search(said).groups())
    turned = f"{0 - mean:.3f} [{0 - high:.3f}, {0 - low:.3f}]"
    assert any(sentence.format(of.replace("+", "")) in page(where) for of in (said, turned)), said


def test_a_gain_on_all_images_comes_with_disagreement_on_test_images():
    said = f"disagreement rises by {more(load(RESULTS / 'balance' / 'long_cifar100'), 'with feature diversity')} points on test"
    assert said in page("balance"), said


def test_growth_is_corrected_over_the_effects_of_each_axis():
    study = load(RESULTS / "budget")
    slopes = {}
    for trend in trends(study, gather(study)):
        if trend.metric == "nll":
            slopes.setdefault(trend.axis, {})[trend.effect] = trend.slope.p
    (length, width), text = slopes.values(), page("budget")
    of_length, of_width = (dict(zip(of, holm(list(of.values())), strict=True)) for of in (length, width))
    terms = ("parameter diversity", "both terms")
    p, corrected = (" and ".join(f"{of[term]:.3f}" for term in terms) for of in (length, of_length))
    assert len(length) == len(width) == 6 and f"(p = {p}, corrected {corrected})" in text, (p, corrected)
    feature, parameter = of_width["feature diversity"], of_width["parameter diversity"]
    said = f"stays after Holm's correction (p = {feature:.3f}), the parameter term's does not ({parameter:.2f})"
    assert said in text, said
    said = f"p {of_length['parameter diversity']:.3f} after Holm over six"
    assert said in (CHECKOUT / "RESULTS.md").read_text(), said


def test_weights_that_a_search_chose_are_rounded():
    said = re.findall(r"\| searched: alpha ([\d.]+), beta ([\d.]+) \|", page("balance"))
    for weights, name in zip(said, ("cifar10", "cifar100", "vit_digits", "vit_cifar10"), strict=True):
        chosen = load(RESULTS / "balance" / name).header.chosen["searched"]
        for weight, of in zip(weights, ("alpha", "beta"), strict=True):
            assert weight == f"{chosen[of]:.{len(weight.partition('.')[2])}f}", (name, of, chosen[of])


def test_what_a_pretrained_peer_and_samples_lose_is_of_all_seeds_of_the_recipe():
    made = analyse(RESULTS / "recipe")
    fall, samples, mean = (means(made.table, column) for column in ("survived", "samples_nll", "means_nll"))
    lost, warmed = (-fall[arm] for arm in ("defaults", "pretrained peer warms up"))
    noisy = "sigma 0.1, rho x 100, means decay"
    gap, before = (samples[arm] - mean[arm] for arm in (noisy, "defaults"))
    text = page("recipe")
    said = f"loses {lost:.1f} points of validation accuracy at its lowest in its first epoch, {warmed:.1f} where it warms up"
    assert said in text, said
    assert f"it lost {warmed:.1f} points at its lowest in the first, [not {lost:.1f}](../recipe/" in page("initialization")
    said = f"differ by {gap:.3f} in validation NLL ({samples[noisy]:.4f} and {mean[noisy]:.4f}, two samples), "
    assert said + f"under the old defaults by {before:.4f}" in text, (said, before)


def test_what_pushes_do_to_corrupted_images_and_to_others():
    """Of arms whose interval leaves out 0; a cost there less that on test images is summed by hand, and corrected over all."""
    text, repeats = page("elsewhere"), gather(load(RESULTS / "elsewhere" / "cifar10"))
    peer, zero, both, few = pushed = "apart from the peer, 0.2", "away from zero, 0.2", "both terms, 0.2", "both terms, 0.05"
    columns = ["shift_nll", "shift_accuracy", "ood_entropy"]
    of = of_columns(repeats, "mutual learning", list(repeats), columns)
    nll, points, area = (of[name] for name in columns)
    said = [f"by {short(nll[arm], 3)} (p {nll[arm].adjusted:.2g})" for arm in (both, few)]
    said += [f"by {short(nll[peer], 3)} (p {nll[peer].adjusted:.2g} after Holm) and adds {short(points[peer], 2)} points"]
    said += [f"by {short(nll[zero], 3)} (p {nll[zero].adjusted:.1g}) and {short(points[zero], 2)} points"]
    ahead = of_columns(repeats, peer, [zero], columns[:2])
    said += [f"{short(ahead['shift_nll'][zero], 3)} and {short(ahead['shift_accuracy'][zero], 2)} points ahead"]
    said += [f"lower the area by {short(area[both], 3)} (p {area[both].adjusted:.2g})"]
    said += [f"have {short(area['two that never met'], 3)} more"]
    said += [f"two deterministic ones {short(area['two deterministic that never met'], 3)}."]
    worse = {}
    for arm in nll:
        pairs = [(repeats[arm][seed], repeats["mutual learning"][seed]) for seed in repeats[arm]]
        test = [own.record.test["pair"]["nll"] - other.record.test["pair"]["nll"] for own, other in pairs]
        corrupted = [
            mean(own.record.shift["pair"][f"nll_{level}"] - other.record.shift["pair"][f"nll_{level}"] for level in range(1, 6))
            for own, other in pairs
        ]
        worse[arm] = difference([there - here for there, here in zip(corrupted, test, strict=True)])
    p = dict(zip(worse, holm([effect.p for effect in worse.values()]), strict=True))
    said += [f"lies {short(worse[peer], 3)} below that on test images (p {p[peer]:.1g} after Holm over seven)"]
    said += [f"both terms' {short(worse[both], 3)}, that of the push away from zero {short(worse[zero], 3)}"]
    said += [f"lies above, by {short(worse['two that never met'], 3)} (p {p['two that never met']:.2g})"]
    assert [sentence for sentence in said if sentence not in text] == []
    again = gather(load(RESULTS / "elsewhere" / "cifar100"))
    of = of_columns(again, "mutual learning", list(again), [*columns, "shift_ece"])
    nll, points, area, ece = of.values()
    said = [f"(p {points[peer].adjusted:.2g}, {points[zero].adjusted:.1g} and {points[few].adjusted:.1g} after Holm)"]
    said += [f"by {short(of_columns(again, peer, [zero], ['shift_accuracy'])['shift_accuracy'][zero], 2)} points."]
    said += [f"by {short(nll[peer], 3)} (p {nll[peer].adjusted:.1g}), the push away from zero by {short(nll[zero], 3)}"]
    said += [f"rises by {short(ece[peer], 2)} and {short(ece[zero], 2)} points"]
    said += [f"falls by {short(area[peer], 3)} under the parameter term (p {area[peer].adjusted:.2g})"]
    assert [sentence for sentence in said if sentence not in text] == []
    assert max(points[arm].adjusted for arm in pushed if arm in points) < 0.02


def test_what_the_pull_and_the_noise_do_to_a_push_on_corrupted_images():
    """Of the records anew, each family of tests corrected as it was stated: three arms, then two contrasts."""
    text, study = page("elsewhere"), load(RESULTS / "elsewhere" / "prior")
    repeats, columns = gather(study), ["shift_accuracy", "shift_nll"]
    pushed, third, plain = "away from zero, nothing lacking", "a third of the prior's weight", study.baseline
    points, nll = of_columns(repeats, plain, ["no pull", "no noise", third], columns).values()
    of = {name: contrasts_of_columns(repeats, {name: weights}, columns[:1])["shift_accuracy"][name]
          for name, weights in study.header.contrasts.items()}  # fmt: skip
    pull, noise = holm([of[f"what the {part} does to the push"].p for part in ("pull", "noise")])
    said = [f"no pull {of['zero, no pull'].text(2)}, where there is neither {of['zero, neither'].text(2)}"]
    said += [f"without the noise alone {of['zero, no noise'].text(2)}"]
    said += [f"is {short(of['what the pull does to the push'], 2)} points (p < 0.0001 after Holm over two)"]
    said += [f"what the noise does {of['what the noise does to the push'].text(2)} (p {noise:.2g})"]
    said += [f"adds {short(points[third], 2)} points (p {points[third].adjusted:.1g} after Holm over three)"]
    said += [f"lowers NLL by {short(nll[third], 3)} (p {nll[third].adjusted:.2g})"]
    said += [f"any pull {short(points['no pull'], 2)} points are added (p {points['no pull'].adjusted:.2g})"]
    said += [f"without the noise {short(points['no noise'], 2)} (p {points['no noise'].adjusted:.2g})"]
    ahead = of_columns(repeats, third, [pushed], columns[:1])["shift_accuracy"][pushed]
    clean = differences(repeats, third, [pushed], ["nll", "accuracy"])
    said += [f"by {short(ahead, 2)} points on corrupted images, and by {short(clean['nll'][pushed], 3)} of NLL"]
    said += [f"and {short(clean['accuracy'][pushed], 2)} points on those as they are"]
    study = load(RESULTS / "elsewhere" / "prior_cifar100")
    (alone, again), added = (
        of["shift_accuracy"].values()
        for of in (contrasts_of_columns(gather(study), study.header.contrasts, columns[:1]),
                   of_columns(gather(study), plain, ["no pull"], columns[:1]))
    )  # fmt: skip
    (added,) = added
    said += [f"again**: {short(again, 2)} points (p {holm([again.p, added.p])[0]:.1g} after Holm over two)"]
    said += [f"the push adds {alone.text(2)} points", f"by itself ({added.text(2)} points, p {added.p:.2g})"]
    study = load(RESULTS / "elsewhere" / "prior_term")
    without, does = contrasts_of_columns(gather(study), study.header.contrasts, columns[:1])["shift_accuracy"].values()
    said += [f"no pull {without.text(2)}; the pull's part is {short(does, 2)} points (p {does.p:.1g})"]
    assert pull < 1e-4 and [sentence for sentence in said if sentence not in text] == []


@pytest.mark.parametrize("name", ["pull", "pull_cifar100"])
def test_what_the_end_of_the_pull_at_the_switch_gains(name):
    """Both families of two tests as they were stated."""
    text, study = page("stage_two_prior"), load(RESULTS / "stage_two_prior" / name)
    repeats, end, pushed = gather(study), "pulled to the switch", "away from zero, pulled to the end"
    beside, part = contrasts_of_columns(repeats, study.header.contrasts, ["shift_accuracy"])["shift_accuracy"].values()
    points = of_columns(repeats, study.baseline, [end, pushed], ["shift_accuracy"])["shift_accuracy"]
    of_end, of_part = holm([points[end].p, part.p])
    nll, right = (
        differences(repeats, study.baseline, [end, pushed], ["nll", "accuracy"])[name] for name in ("nll", "accuracy")
    )
    added = contrasts(repeats, study.header.contrasts, ["nll", "accuracy"])
    cost, lost = (found["zero, pulled to the switch"] for found in added.values())
    assert of_end < 1e-4
    if name == "pull":
        said = [f"adds {short(points[end], 2)} points (p < 0.0001 after Holm over two), the push beside"]
        said += [f"{short(points[pushed], 2)}. Of that", f"makes {short(part, 2)} (p < 0.0001)", f"adds {beside.text(2)}."]
        said += [f"the push costs {short(cost, 3)} of NLL and {short(lost, 2)} points"]
        said += [f"alone gains {short(nll[end], 3)} and {short(right[end], 2)} points"]
        assert of_part < 1e-4
    else:
        ahead = differences(repeats, end, [pushed], ["accuracy"])["accuracy"][pushed]
        said = [f"adds {short(points[end], 2)} points on corrupted images (p < 0.0001 after Holm over two)"]
        said += [f"in the push is {short(part, 2)} (p {of_part:.1g})", f"the push adds {beside.text(2)}."]
        said += [f"gains {short(nll[end], 3)} of NLL and {short(right[end], 2)} points, as much"]
        said += [f"and {ahead.mean:.2f} [{ahead.interval[0]:.2f}, {ahead.interval[1]:.2f}] points less"]
        said += [f"the push costs {short(cost, 3)}."]
    assert [sentence for sentence in said if sentence not in text] == []


def test_what_the_end_of_the_prior_at_the_switch_leaves_to_the_terms():
    text, study = page("stage_two_prior"), load(RESULTS / "stage_two_prior" / "weight_cifar100")
    repeats, less = gather(study), ["no prior in stage two", "a third of the prior in stage two"]
    found = differences(repeats, study.baseline, less, ["nll", "accuracy"])
    (nll, nll_third), (right, right_third) = (of.values() for of in found.values())
    of_nll, of_right = (contrasts(repeats, study.header.contrasts, [name])[name] for name in ("nll", "accuracy"))
    adds, does, instead = of_nll.values()
    said = [f"in stage two {short(nll, 3)} of NLL and {short(right, 2)} points, a third {short(nll_third, 3)}"]
    said += [f"and {short(right_third, 2)} (all p < 0.001", f"is {short(does, 3)} (p < 0.0001 after Holm over two)"]
    said += [
        f"{adds.text(3)} of NLL (p {adds.p:.2g}), equivalent to 0, and {of_right['the terms, no prior in stage two'].text(2)}"
    ]
    bounds = "{0.mean:.{1}f} [{0.interval[0]:.{1}f}, {0.interval[1]:.{1}f}]".format
    said += [f"({bounds(instead, 3)}; {bounds(of_right['no prior, not the terms'], 2)} points)"]
    assert [sentence for sentence in said if sentence not in text] == []
    assert max(effect.adjusted for of in found.values() for effect in of.values()) < 1e-3
    assert max(holm([adds.p, does.p])[1:]) < 1e-4 and {effect.verdict(0.005, False) for effect in (adds, instead)} == {
        "equivalent"
    }


def test_what_a_searched_prior_leaves_to_the_terms():
    text, study = page("stage_two_prior"), load(RESULTS / "stage_two_prior" / "searched_cifar100")
    repeats, pushed, (apart,) = gather(study), ["away from zero", "both terms"], study.header.contrasts
    nll, right = differences(repeats, study.baseline, pushed, ["nll", "accuracy"]).values()
    (push, terms), (push_right, terms_right) = nll.values(), right.values()
    behind = contrasts(repeats, study.header.contrasts, ["nll"])["nll"][apart]
    scaled = after_scaling(repeats, study.baseline, pushed)["nll"]["away from zero"]
    gain = f"{-terms.mean:.3f} [{-terms.interval[1]:.3f}, {-terms.interval[0]:.3f}]"
    said = [f"they gain {gain} of NLL (p {terms.p:.2g}) and {terms_right.text(2)} points, the push {short(push, 3)}"]
    said += [f"and {short(push_right, 2)} points (both p < 0.0001", f"{short(behind, 3)} more of NLL than the terms"]
    said += [f"the push gains {short(scaled, 3)}."]
    chosen = study.header.chosen
    for arm in (study.baseline, *pushed):
        weight, factor, *shares = (chosen[arm][name] for name in chosen[arm])
        of_shares = " and ".join(f"{share:.3f}" for share in shares)
        said += [f"| {weight:.2f}, {factor:.2f}{', ' * bool(shares)}{of_shares} |"]
    assert max(push.adjusted, push_right.adjusted) < 1e-4 and [sentence for sentence in said if sentence not in text] == []


def test_a_searched_prior_gains_what_its_end_gains_on_the_same_images():
    text = page("stage_two_prior")
    searched, given = (load(RESULTS / "stage_two_prior" / name) for name in ("searched_cifar100", "weight_cifar100"))
    assert searched.header.fingerprint == given.header.fingerprint and searched.header.seeds == given.header.seeds
    own, plain, ended, both = (
        mean(trial.test["pair"]["nll"] for trial in study.finished(arm).values())
        for study, arm in (
            (searched, "mutual learning"), (given, "mutual learning"), (given, "no prior in stage two"), (given, "both terms"),
        )
    )  # fmt: skip
    assert f"an NLL of {own:.3f}, with the default's prior {plain:.3f} on the same" in text
    assert f"{ended:.3f} with none in stage two, {both:.3f} with both terms at 0.05" in text


def test_pushes_gain_more_where_the_prior_of_stage_two_is_heavier():
    """At the ten points that all arms share, on validation images."""
    text, study = page("stage_two_prior"), load(RESULTS / "stage_two_prior" / "searched_cifar100")
    found: dict[str, dict[float, list[float]]] = {}
    for arm, trial in study.searched:
        weight = trial.config["kl_weight"] * trial.config["stage_two_kl_scale"]
        found.setdefault(arm, {}).setdefault(weight, []).append(trial.validation["pair"]["nll"])
    plain, pushed = found.pop("mutual learning"), {}
    assert len(plain) == 10 and all(len(of_point) == 2 for of_point in plain.values())
    for arm, points in found.items():
        assert points.keys() == plain.keys()
        pushed[arm] = [mean(points[weight]) - mean(plain[weight]) for weight in sorted(plain)]
    ranks = [spearmanr(sorted(plain), pushed[arm]).statistic for arm in ("both terms", "away from zero")]
    assert f"is {ranks[0]:.2f} for both terms and {ranks[1]:.2f} for the push" in text
    assert f"({-pushed['both terms'][-1]:.3f}; {-pushed['away from zero'][-1]:.3f})" in text
    assert f"both terms cost {pushed['both terms'][0]:.3f} and {pushed['both terms'][1]:.3f}" in text
    assert f"from {min(plain):.2f} to {max(plain):.1f}" in text


def test_what_the_end_of_the_prior_at_the_switch_leaves_to_the_terms_on_cifar10():
    text, study = page("stage_two_prior"), load(RESULTS / "stage_two_prior" / "weight_cifar10")
    repeats, less = gather(study), ["a third of the prior in stage two", "no prior in stage two"]
    nll, right = differences(repeats, study.baseline, less, ["nll", "accuracy"]).values()
    adds, does, _ = contrasts(repeats, study.header.contrasts, ["nll"])["nll"].values()
    beside = next(iter(contrasts_of_columns(repeats, study.header.contrasts, ["shift_accuracy"])["shift_accuracy"].values()))
    said = [f"gains {short(nll[less[0]], 3)} of NLL, none {short(nll[less[1]], 3)} (both p < 0.01 after"]
    said += [
        f"the terms cost {short(adds, 3)}; what its prior does to them is {short(does, 3)}",
        f"{beside.text(2)} points, is not",
    ]
    assert [sentence for sentence in said if sentence not in text] == []
    assert max(effect.adjusted for effect in nll.values()) < 0.01 and min(effect.adjusted for effect in right.values()) > 0.05
    assert max(holm([adds.p, does.p])) < 1e-3 and adds.mean > 0
