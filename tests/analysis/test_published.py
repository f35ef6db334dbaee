"""Numbers in README, on the first page of docs/ and on the pages of studies come out of the records in docs/results."""

import re
import sys
from functools import cache
from itertools import product
from statistics import fmean as mean

import pytest
from helpers.published import CHECKOUT, RESULTS, load

import analysis.build
from analysis.answer.document import ELSEWHERE
from analysis.build import analyse, build
from analysis.compact.copy import ARCHIVE
from analysis.comparison.effects import after_scaling, contrasts, differences, of_columns
from analysis.records.columns import COLUMNS, FAMILIES
from analysis.records.repeats import STRONGER, gather
from analysis.stats.statistics import BETTER, UNDECIDED, WORSE, difference
from analysis.tables import MARKDOWN_BOLD, cells, means
from benchmarks import term_shares, yardstick_curves
from mldiv.records.checked_files import read_lines
from mldiv.records.study_files import trial_folder

#: Folders with records, by their names below docs/results.
CONCEPTS = (CHECKOUT / "docs" / "concepts.md").read_text()
STORED = sorted(str(path.parent.relative_to(RESULTS)) for name in ("study.json", ARCHIVE) for path in RESULTS.rglob(name))
#: An effect as `size` writes it.
EFFECT = re.compile(r"[+-]\d+\.(\d+) \[[+-]\d+\.\d+, [+-]\d+\.\d+\]")
#: Metrics that are quick, whose effects the pages quote.
MEANS = ("nll", "accuracy")
#: With so many digits effects are quoted.
DIGITS = (2, 3, 4)
#: A mean like -0.845 is rounded up by one version of NumPy, and down by another.
ROUNDED = (1 - 1e-12, 1.0, 1 + 1e-12)
#: The studies whose networks overfit; those of all others err on training images on at most so many points fewer.
OVERFIT = (
    "few_images", "few_images/small", "few_images_cifar100/ablation", "few_images_cifar100/placebo",
    "few_images_cifar100/rates", "few_images_cifar100/parts", "few_images_cifar100/prior", "few_images_cifar100/noise",
    "few_images_cifar100/stages", "few_images_cifar100/teaching", "few_images_cifar100/posterior", "few_images_cifar100/decay",
    "yardsticks/pair",
)  # fmt: skip
POINTS = 4.2
#: Columns of corrupted images by family.
OF_FAMILIES = [f"{family}_accuracy" for family in FAMILIES]
#: Of studies with more, arms are compared with the baseline alone.
MANY_ARMS = 15


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Every study is read once for all tests, which unpacks it and takes a quarter of a second."""
    once = cache(load)
    with pytest.MonkeyPatch.context() as patch:
        for module in (analysis.build, term_shares, yardstick_curves, sys.modules[__name__]):
            patch.setattr(module, "load", once)
        yield


def written(effect, digits, factor=1.0):
    """An effect as the pages have it: its mean, and its interval in brackets."""
    mean, *ends = (f"{factor * value:+z.{digits}f}" for value in (effect.mean, *(effect.interval or ())))
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def rows(text, first):
    """The table in a Markdown text whose first column is called so: its rows as lists of cells, the titles first."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_demos_table_is_made_from_its_records(page):
    made = analyse(CHECKOUT / "docs" / "results" / "demo")
    assert not made.study.problems
    text = (CHECKOUT / page).read_text()
    titles, _, *body = rows(text, "kernel")
    names = [next(name for name, column in COLUMNS.items() if column.title == title) for title in titles[1:]]
    assert body == cells(made.table, names, MARKDOWN_BOLD)
    caption = text[text.index("*Demo preset:") :].split("\n")[0]
    assert f"commit {made.study.header.environment['commit']}" in caption


def quoted():
    """Rows with effects, below a paragraph that links a study's answer, on its page: the records, the row's effects, and on how
    many images peers disagree there, if the table says it."""
    found = []
    for page in sorted(RESULTS.rglob("README.md")):
        for section in re.split(r"\n(?=##+ |\*\*[A-Z])", page.read_text()):
            folders = [(page.parent / link).parent for link in re.findall(r"\]\((\S*answer\.md)\)", section)]
            names = tuple(name for folder in folders if (name := str(folder.relative_to(RESULTS))) in STORED)
            for table in re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE) if names else []:
                titles, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
                for line in lines:
                    apart = dict(zip(titles, line, strict=True)).get("the peers disagree on")
                    effects = [match[0] for cell in line for match in EFFECT.finditer(cell)]
                    if effects or apart is not None:
                        found.append(pytest.param(names, line[0], effects, apart, id=f"{names[0]}: {line[0]}"))
    return found


@cache
def said(name):
    """By arm or contrast, every effect in NLL and accuracy that a study has, by whomever it is judged, against every arm; those
    in NLL after temperature scaling, and on corrupted and other images, too."""
    study = load(RESULTS / name)
    assert not study.problems
    found = {}
    for whose in (None, "peers", STRONGER):
        repeats = gather(study, whose)
        baselines = [study.baseline] if len(study.arms) > MANY_ARMS else study.arms
        families = [differences(repeats, arm, study.arms, MEANS) for arm in baselines]
        families += [after_scaling(repeats, arm, study.arms) for arm in baselines]
        families += [of_columns(repeats, arm, study.arms, (*ELSEWHERE, *OF_FAMILIES)) for arm in baselines if whose is None]
        for effects in [contrasts(repeats, study.header.contrasts, MEANS), *families]:
            for of_metric in effects.values():
                for arm, effect in of_metric.items():
                    found.setdefault(arm, set()).update(written(effect, *way) for way in product(DIGITS, ROUNDED))
    return found


def disagreement(name, arm):
    """On how many test images the peers of an arm disagree, by the records that have it."""
    scores = [trial.generalized.get("test", {}) for trial in load(RESULTS / name).finished(arm).values()]
    return mean(100 * of_test["disagreement"] for of_test in scores if of_test)


@pytest.mark.parametrize("names, title, effects, apart", quoted())
def test_results_quotes_effects_of_one_arm_as_its_records_give_them(names, title, effects, apart):
    """All effects of a row are of one arm, or of one contrast: a number that slipped into another row is found.

    A row without any is of the arm that it names, or of the baseline."""
    arms = [(name, arm) for name in names for arm, of_arm in said(name).items() if set(effects) <= of_arm]
    assert arms, effects
    if not effects:
        arms = [(name, title if title in load(RESULTS / name).arms else load(RESULTS / name).baseline) for name in names]
    if apart is not None:
        assert apart.split()[0] in {f"{disagreement(*arm):.1f}" for arm in arms}, apart


def test_results_effects_are_looked_up_in_every_study_that_has_any():
    """What the test above looks at: 17 rows of recipes, 10 of forms, 6 of kernels, 2 of the switch, or more."""
    counts = {name: sum(name in case.values[0] for case in quoted()) for name in STORED}
    assert counts["recipe"] >= 17 and counts["diversity_form"] >= 10 and counts["kernels_alive"] >= 6 and counts["switch"] >= 2


#: Not counted: the demo, and what repeats another study's comparison.
DEMO, AGAIN = "demo", {
    ("diversity_form/tenth", "both terms"), ("balance/cifar100_terms", "with both"), ("ablation", "with feature diversity"),
    ("few_images_cifar100/prior", "no push"), ("kernels_long", "cosine"),
} | {
    (f"stage_two_prior/{name}", "both terms") for name in ("weight_cifar10", "weight_cifar100")
} | {
    ("few_images_cifar100/placebo", arm) for arm in ("apart from the peer", "apart by features", "both terms")
} | {
    ("few_images_cifar100/rates", arm)
    for arm in ("no push, half the rate", "apart from the peer, 0.034, the whole rate", "away from zero, 0.034, the whole rate")
} | {
    ("few_images_cifar100/parts", arm) for arm in ("apart from the peer", "away from zero", "deterministic, no push")
} | {
    (f"few_images_cifar100/{name}", arm) for name in ("noise", "stages") for arm in ("apart from the peer", "away from zero")
} | {("few_images_cifar100/teaching", "weight 1")} | {
    (f"elsewhere/{name}", "away from zero, nothing lacking") for name in ("prior", "prior_cifar100")
} | {
    ("elsewhere/prior_term", arm) for arm in ("no pull", "apart from the peer, nothing lacking")
} | {
    ("diversity_form/today", arm)
    for arm in ("both terms", "parameter term alone", "feature term alone", "stage two continues, no diversity")
} | {
    ("budget", f"{method}, as it is")
    for method in (
        "two deterministic networks", "deterministic mutual learning", "two Bayesian networks", "with parameter diversity",
        "with feature diversity", "with both",
    )
}  # fmt: skip
#: Of which one seed was trained.
ONE_SEED = "yardsticks/pair"
#: Seeds that give a first verdict; with fewer nothing is decided or counted.
FEW = 3


def verdicts(study, repeats):
    """By arm, its verdict in NLL against the baseline, and over how many seeds."""
    found = differences(repeats, study.baseline, study.header.compare, ["nll"])["nll"]
    return {arm: (effect.verdict(study.header.margins["nll"], more=False), effect.n) for arm, effect in found.items()}


@cache
def anew(name):
    """What the records of a study give, which takes seconds: by arm how far its networks overfit, the answer, and the verdicts
    of all seeds and of the first ones."""
    made = analyse(RESULTS / name)
    study, found = made.study, ({}, {})
    assert not study.problems
    if study.baseline is not None:
        repeats = gather(study)
        early = {arm: {seed: of_arm[seed] for seed in of_arm if seed <= FEW} for arm, of_arm in repeats.items()}
        found = verdicts(study, repeats), verdicts(study, early)
    return [-gap for gap in means(made.table, "overfit").values()], made.answer(), *found


@pytest.mark.slow
def test_concepts_count_what_is_decided():
    """Arms against their baseline, by NLL: in all, with how many seeds, and how many verdicts of three seeds hold with more."""
    counted, held, trials = {True: [], False: []}, [], []
    for name in STORED:
        if name != DEMO:
            _, _, last, first = anew(name)
            for arm, (verdict, seeds) in last.items():
                if (name, arm) not in AGAIN and seeds >= FEW:
                    study = load(RESULTS / name)
                    trials.append((study.finished(arm)[1].id, study.finished(study.baseline)[1].id))
                    counted[seeds > FEW].append(verdict != UNDECIDED)
                    held += [(first[arm][0], verdict)] if seeds > FEW and first[arm][0] != UNDECIDED else []
    assert len(set(trials)) == len(trials), "a comparison is counted twice"
    decided, of = sum(map(sum, counted.values())), sum(map(len, counted.values()))
    many, few = (f"{sum(kind)} of {len(kind)}" for kind in (counted[True], counted[False]))
    said = f"Of {of} comparisons of an arm with its baseline, {decided} end as better, "
    said += f"equivalent or worse ({100 * decided / of:.0f} %): {many} with four seeds or more, {few} with three; "
    assert said in CONCEPTS, said
    same = sum(early == late for early, late in held)
    said = f"Of {len(held)} verdicts of the first three seeds, {same} hold with more; none turns round."
    assert said in CONCEPTS, said
    assert {BETTER, WORSE} not in map(set, held)


def test_concepts_count_what_is_decided_at_each_length_and_width():
    """Every method against mutual learning of its own length or width, by NLL, three seeds each."""
    study = load(RESULTS / "budget")
    repeats, found = gather(study), []
    for baseline in [arm for arm in study.arms if arm.startswith("mutual learning, ") and arm != study.baseline]:
        size = baseline.partition(", ")[2]
        arms = [arm for arm in study.arms if arm.partition(", ")[2] == size and arm != baseline]
        found += differences(repeats, baseline, arms, ["nll"])["nll"].values()
    assert {effect.n for effect in found} == {FEW}
    decided = sum(effect.verdict(study.header.margins["nll"], more=False) != UNDECIDED for effect in found)
    said = f"of {len(found)} more at [lengths and widths](results/budget/README.md), three seeds, {decided}. "
    assert said in CONCEPTS, said


def test_concepts_count_where_a_temperature_changes_a_verdict():
    answers = [(RESULTS / name / "answer.md").read_text() for name in STORED if name not in (DEMO, ONE_SEED)]
    same, other = (
        sum(words in text for text in answers) for words in ("leaves the verdicts", "NLL after temperature scaling**")
    )
    assert same + other == len(answers)
    said = f"Temperature scaling leaves all verdicts in {same} of {len(answers)} studies"
    assert said in CONCEPTS, said


def test_the_yardsticks_are_made_from_records_and_logs():
    """Of the pair: its peers' accuracies on test images, and its learning curves beside the public ones."""
    page = (RESULTS / "yardsticks" / "README.md").read_text()
    titles, body = yardstick_curves.rows()
    first = titles[0]
    assert rows(page, first)[0] == titles and rows(page, first)[2:] == body
    study = load(RESULTS / ONE_SEED)
    peers = [study.finished(arm)[1].test for arm in study.arms]
    here = [", ".join(f"{100 * scores[f'peer_{number}']['accuracy']:.1f}" for number in (1, 2)) for scores in peers]
    assert f"| two ResNet-32, here | 30 | {' | '.join(here)} |" in page
    logs = yardstick_curves.public()
    for name, (alone, mutual) in logs.items():
        assert re.search(rf"\| {name}, learning with .* \| 200 \| {alone[-1]:.1f} \| {mutual[-1]:.1f} \|", page)


@pytest.mark.slow
def test_how_much_the_terms_act_is_made_from_records():
    """The table of their lowest shares; and what the page says of it, that RESULTS.md repeats."""
    page = (RESULTS / "gradients" / "README.md").read_text()
    titles, _, *body = rows(page, term_shares.TITLES[0])
    assert titles == term_shares.TITLES and body == term_shares.rows()
    apart = [row for row in body if not re.search("one_start|one seed", row[0])]
    lowest = {term: [float(row[place].split("(")[1].rstrip(")")) for row in body] for term, place in (("p", 4), ("f", 5))}
    assert min(*lowest["p"], *lowest["f"]) > 0.02 and "above 2 %" in (CHECKOUT / "RESULTS.md").read_text()
    assert all(row[7] == "0 %" for row in apart) and len(body) - len(apart) == 2
    assert {row[6] == "0 %" for row in apart if int(row[2].split(",")[0]) <= 8} == {True}


#: Studies whose weight samples are held against the networks of the means, and arms, where a study has them.
SAMPLED, ARMS = ("ablation", "ablation_long", "few_images"), ("two single BNNs", "mutual learning", "with both")


def sampled(name):
    """By arm, validation NLL of the weight samples less that of the mean networks, over seeds: the pair's, its peers' mean."""
    study, found = load(RESULTS / name), []
    for arm in [arm for arm in ARMS if arm in study.arms]:
        trials = list(study.finished(arm).values())
        times = f"{trials[0].data['train']:,}, {trials[0].config['epochs']}"
        gaps = [{member: of["nll"] - of["mean_nll"] for member, of in trial.posterior.items()} for trial in trials]
        whose = [gap["pair"] for gap in gaps], [mean([gap["peer_1"], gap["peer_2"]]) for gap in gaps]
        sigma = mean([trial.posterior[peer]["sigma_over_mean"] for trial in trials for peer in ("peer_1", "peer_2")])
        effects = (difference(each).text(4) for each in whose)
        found.append([times, arm, str(len(trials)), f"{100 * sigma:.0f} %", *effects])
    return found


def test_samples_against_mean_networks_are_made_from_records():
    titles, _, *body = rows((RESULTS / "few_images" / "README.md").read_text(), "images, how often")
    assert body == [row for name in SAMPLED for row in sampled(name)], titles


def test_how_far_a_pretrained_peer_falls_is_made_from_records():
    """In mutual learning, mean over seeds of its validation accuracy at the first, second and last point of its first epoch."""
    text = (RESULTS / "initialization" / "README.md").read_text()
    for name in SAMPLED[:2]:
        study, seen = load(RESULTS / name), []
        for trial in study.finished("mutual learning").values():
            points = next(iter(read_lines(trial_folder(study.folder, trial.id) / "metrics.jsonl")))["first_epoch"]
            seen.append([points[place]["peer_2"] for place in (0, 1, -1)])
        first, quarter, last = (f"{100 * mean(of):.1f}" for of in zip(*seen, strict=True))
        assert f"{first}, {quarter} and {last} % in the [" in text and f"README.md) (n = {len(seen)})" in text, (first, quarter)


@pytest.mark.slow
def test_all_that_a_copy_gives_is_written(tmp_path):
    build(RESULTS / DEMO, tmp_path, ("md", "csv"))
    assert {"table.md", "table.csv", "answer.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_what_is_published_is_made_anew_from_its_records(name):
    """Lists of effects in NLL and accuracy, within 1 in the last digit: rounding of images may turn a number on the edge."""
    gaps, answer, *_ = anew(name)
    if name not in OVERFIT:
        assert max(gaps, default=0) <= POINTS, gaps
        assert f"on at most {POINTS} points fewer" in (CHECKOUT / "RESULTS.md").read_text()
    else:
        assert min(gaps) > 2 * POINTS
    if (published := RESULTS / name / "answer.md").exists():
        old, new = (lists(text) for text in (published.read_text(), answer))
        assert old.keys() == new.keys()
        assert len(old) > 3 or published.read_text() == answer, "of one seed no effect has an interval"
        for key, effect in old.items():
            last = 10 ** -len(effect.split()[0].partition(".")[2])
            numbers = [[float(number) for number in re.findall(r"[+-]\d+\.\d+", text)] for text in (effect, new[key])]
            assert numbers[1] == pytest.approx(numbers[0], abs=1.01 * last), key


def lists(text):
    """By metric and arm, the effects of an answer's lists, or tables as it has them since, of NLL and accuracy."""
    found, head = {}, None
    for part in text.split("\n\n"):
        for line in part.splitlines() if head else []:
            name = re.match(r"- (.*?): \*\*|\| (.*?) +\|", line)
            if name and (effect := EFFECT.search(line)):
                found[head[0], name[1] or name[2]] = effect[0]
        head = re.match("(Difference|Contrasts) in test (NLL|accuracy)", part.strip())
    return found
