"""Answer the study's question in plain words with its numbers, or say why the data cannot tell."""

from collections.abc import Mapping

import pandas as pd

from analysis.records.effects import COMPARED, Effects
from analysis.records.load import StudyData
from analysis.stats.statistics import (
    BETTER,
    EQUIVALENT,
    LEAST_SEEDS,
    LEVEL,
    MOST_SEEDS,
    POWER,
    UNDECIDED,
    VERDICTS,
    WORSE,
    Difference,
    interval_name,
)
from mldiv.terminal import plain

#: Heads of the lists.
ARMS, CONTRASTS = "Difference", "Contrasts"


def answer(
    study: StudyData, effects: Effects, contrasts: Effects, further: list[str], numbers: bool = True,
    singles: Mapping[str, Effects] | None = None,
) -> str:  # fmt: skip
    """Write answer.md.

    effects, contrasts: differences to the baseline and contrasts, in printed units; further: paragraphs that a study's own
    kind of question adds; numbers: list every difference; singles: the differences once more, by whose predictions the arms are
    judged: their single peers'.
    """
    lines = [f"# {study.header.question}", "", *([study.rescored, ""] if study.rescored else [])]
    baseline = study.baseline
    if baseline is None or not study.finished(baseline):
        lines.append(f"There is no answer yet: the baseline ({baseline}) has no finished trial.")
        return "\n".join(lines) + "\n"
    if not effects["nll"]:
        lines.append(f"There is no answer yet: no arm has a finished trial on a seed of the baseline ({baseline}).")
        return "\n".join(lines) + "\n"
    singles = singles or {}
    paragraphs = [_verdicts(study, effects["nll"]), *_looks(study), *_unlike(study, effects["nll"], singles), *further]
    if contrasts["nll"]:
        paragraphs.append(_contrasts(study, contrasts["nll"]))
    if numbers:
        paragraphs += [_list(study, ARMS, f" to {baseline}", metric, effects[metric]) for metric in COMPARED]
        paragraphs += [_by_whom(study, metric, effects[metric], singles) for metric in COMPARED if singles]
        paragraphs += [_list(study, CONTRASTS, "", metric, contrasts[metric]) for metric in COMPARED if contrasts["nll"]]
    for paragraph in paragraphs:
        lines += [paragraph, ""]
    return "\n".join([*lines, *_cautions(study, effects["nll"])]) + "\n"


def _verdicts(study: StudyData, effects: Mapping[str, Difference]) -> str:
    """Say which arms are better, equivalent, worse or undecided, and what stays after a correction for how many there are."""
    margin = study.header.margins["nll"]
    by_verdict: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for arm, effect in effects.items():
        by_verdict[effect.verdict(margin, COMPARED["nll"].more)].append(arm)
    parts = [f"{join(arms)} {'is' if len(arms) == 1 else 'are'} {verdict}" for verdict, arms in by_verdict.items() if arms]
    means = {BETTER: min, WORSE: max}
    words = [f"**In test NLL, against {study.baseline}: {'; '.join(parts)}** (a difference below {margin:g} does not matter)."]
    for verdict, most in means.items():
        if arms := by_verdict[verdict]:
            arm = most(arms, key=lambda name: effects[name].mean)
            which = f"{'largest ' * (len(arms) > 1)}{'gain' if verdict == BETTER else 'loss'}"
            words.append(f"The {which} is that of {arm}: {size(effects[arm], 4)}.")
    if told := by_verdict[BETTER] + by_verdict[WORSE]:
        words.append(_corrected(effects, told))
    if by_verdict[BETTER] and len(effects) > 1:
        words.append("The arms were not tested against each other: being the best mean is no proof of being the best.")
    if arms := by_verdict[UNDECIDED]:
        words.append(_plan({arm: effects[arm] for arm in arms}, margin) if not study.header.looks else _further(study, arms))
    return " ".join(word for word in words if word)


def _further(study: StudyData, arms: list[str]) -> str:
    """Say what becomes of what is undecided in a study that adds seeds as needed."""
    taken, planned = len(study.looks[-1]), study.header.looks
    if taken < planned[-1]:
        return f"The same command goes on to {planned[planned.index(taken) + 1]} seeds."
    return (
        f"With {taken} seeds, the stated most, {'that stays' if len(arms) == 1 else 'those stay'} undecided; more seeds are "
        "another study (`--seeds auto:MOST`, another `--out`): this one has stated its looks."
    )


def _looks(study: StudyData) -> list[str]:
    """Say when a study that adds seeds as needed has looked, and at which level."""
    planned, level = study.header.looks, study.header.level
    if not planned:
        return []
    return [
        f"**Seeds were added as needed**: after looks at {join([str(len(seeds)) for seeds in study.looks])} seeds, of "
        f"{join(list(map(str, planned)))} planned before training. Each look has {interval_name(level)}s, and p is multiplied "
        f"by {len(planned)}, so that over all looks together a verdict errs at most as often as one at a level of {LEVEL:.0%}. "
        "What a look has decided stays decided: verdict, mean, interval and n are that look's, of the undecided the last "
        "one's. Tables hold the means of all seeds."
    ]


def _unlike(study: StudyData, effects: Mapping[str, Difference], singles: Mapping[str, Effects]) -> list[str]:
    """Say where single peers are not as the pair: what a pair gains its peers may lose, and the other way round."""
    margin, found = study.header.margins["nll"], []
    of_peers = next(iter(singles.values()), {}).get("nll", {})
    for arm in [arm for arm in effects if arm in of_peers]:
        by_pair, by_peers = (verdict(one[arm], "nll", margin) for one in (effects, of_peers))
        if by_pair != by_peers:
            found.append(f"{arm} is {by_peers} ({size(of_peers[arm], 4)}) and not {by_pair}")
    if not of_peers:
        return []
    return [f"**By the mean of its single peers**, {'; '.join(found)}." if found else "Single peers give the same verdicts."]


def _by_whom(study: StudyData, metric: str, effects: Mapping[str, Difference], singles: Mapping[str, Effects]) -> str:
    """Tabulate the verdicts by whose predictions an arm is judged."""
    compared, margin = COMPARED[metric], study.header.margins[metric]
    interval = interval_name(study.header.level)
    columns = {"as the arm is judged": effects, **{name: of[metric] for name, of in singles.items() if metric in of}}
    rows = [
        [plain(arm).replace("|", r"\|"), *(_cell(of.get(arm), metric, margin) for of in columns.values())] for arm in effects
    ]
    head = f"The same by whom: difference in test {compared.title}{compared.unit}, verdict, mean [{interval}]:"
    table = pd.DataFrame(rows, columns=[study.header.scientific, *columns]).to_markdown(index=False, disable_numparse=True)
    return f"{head}\n\n{table}"


def _cell(effect: Difference | None, metric: str, margin: float) -> str:
    return "-" if effect is None else f"{verdict(effect, metric, margin)}, {size(effect, COMPARED[metric].digits)}"


def _corrected(effects: Mapping[str, Difference], told: list[str]) -> str:
    """Say which of the arms that are told from the baseline still are after Holm's correction."""
    lost = [arm for arm in told if effects[arm].adjusted > LEVEL]
    if len(effects) == 1:
        return ""
    stays = "all of that stays" if not lost else f"{'none' if len(lost) == len(told) else 'not all'} of it stays"
    without = f" ({join(lost)}: p ≤ {max(effects[arm].adjusted for arm in lost):.2g})" if lost else ""
    return f"After Holm's correction over {len(effects)} comparisons {stays}{without}."


def _plan(effects: Mapping[str, Difference], margin: float) -> str:
    """Say how many seeds would decide what is undecided, were the differences what was found."""
    if any(effect.error is None for effect in effects.values()):
        return "One seed says nothing of how differences vary, so that nothing is decided and nothing can be planned."
    needed = {arm: effect.seeds_to_decide(margin) for arm, effect in effects.items()}
    known = {arm: number for arm, number in needed.items() if number is not None}
    never = [arm for arm in needed if arm not in known]
    words = []
    if known:
        n = max(known.values())
        beside = f", of {join(never)} not even {MOST_SEEDS:,}" if never else ""
        words.append(f"About {n} seeds would decide {'that' if len(known) == 1 else 'those'} (`--seeds {n}`){beside}")
    else:
        words.append(
            f"Not even {MOST_SEEDS:,} seeds would decide: a difference is as large as what matters, or the images are few"
        )
    return f"{words[0]}, with a chance of {POWER:.0%}, were the true differences those found here: a plan, not a promise."


def _contrasts(study: StudyData, contrasts: Mapping[str, Difference]) -> str:
    """Say which contrasts in NLL are told from 0, and which are too small to matter."""
    margin = study.header.margins["nll"]
    verdicts = {name: effect.verdict(margin, False) for name, effect in contrasts.items()}
    told = [f"{name} ({signed(contrasts[name].mean, 4)})" for name, verdict in verdicts.items() if verdict in (BETTER, WORSE)]
    small = [name for name, verdict in verdicts.items() if verdict == EQUIVALENT]
    found = [f"{words}: {join(names)}" for words, names in (("told from 0", told), ("too small to matter", small)) if names]
    return f"**Contrasts in test NLL**: {'; '.join(found) or 'none is told from 0, none is known to be too small to matter'}."


def _list(study: StudyData, kind: str, to: str, metric: str, effects: Mapping[str, Difference]) -> str:
    compared, margin = COMPARED[metric], study.header.margins[metric]
    head = (
        f"{kind} in test {compared.title}{compared.unit}{to}, paired by seed, mean [{interval_name(study.header.level)}] (what "
        f"matters: {margin:g}):"
    )
    rows = {name: (verdict(effect, metric, margin, kind), describe(effect, metric)) for name, effect in effects.items()}
    return "\n".join([head, "", *(f"- {name}: **{word}**, {words}" for name, (word, words) in rows.items())])


def verdict(effect: Difference, metric: str, margin: float, kind: str = ARMS) -> str:
    """Return the verdict of an arm; of a contrast, which nobody trains, on which side of 0 it lies."""
    found = effect.verdict(margin, COMPARED[metric].more)
    if kind == ARMS or found not in (BETTER, WORSE):
        return found
    return "above 0" if effect.mean > 0 else "below 0"


def describe(effect: Difference, metric: str) -> str:
    """Write an effect's mean, interval, p-values, chance to be better, and number of seeds."""
    compared, above = COMPARED[metric], effect.chance_above
    chance = above if compared.more or above is None else 1 - above
    likely = "" if chance is None else f", better with a chance of {percent(chance)}"
    return f"{size(effect, compared.digits)}, p = {effect.p:.2g}, Holm-adjusted {effect.adjusted:.2g}{likely}, n = {effect.n}"


def percent(chance: float) -> str:
    """Write a chance, which is never quite 0 or 1."""
    return "< 0.1 %" if chance < 0.001 else "> 99.9 %" if chance > 0.999 else f"{100 * chance:.3g} %"


def _cautions(study: StudyData, effects: Mapping[str, Difference]) -> list[str]:
    lines = [_intervals(effects)]
    header = study.header
    if header.has_search:
        lines.append(
            f"Arms were tuned with the same search budget ({header.samples} trials each, on validation data) where they "
            "have something to tune, and repeated on fresh seeds; arms of one seed saw the same batches, augmentations and "
            "weight noise."
        )
    if study.development:
        lines.append(f"Wherever this says test, it means {study.scored}; the official test set is unused.")
    if header.data_is_subset or header.preset == "demo":
        lines.append(f"This is a small run ({header.data}): it says nothing about other sizes.")
    if missing := study.missing():
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    baseline = study.finished(study.baseline or "")
    unequal = [
        arm
        for arm in effects
        for seed, record in study.finished(arm).items()
        if seed in baseline and baseline[seed].epochs != record.epochs
    ]
    if unequal:
        lines.append(f"Left out, because the numbers of epochs differ: pairs of {join(sorted(set(unequal)))}.")
    return lines


def _intervals(effects: Mapping[str, Difference]) -> str:
    images = {effect.images for effect in effects.values()}
    if images == {None}:
        words = (
            "Intervals are t intervals over seeds; they do not cover the choice of test images (predictions are missing, or "
            "there is one seed)."
        )
    else:
        words = (
            f"Intervals hold over seeds and over test images together ({max(number or 0 for number in images):,} images, "
            "shared by all seeds): a two-way bootstrap with t quantiles."
        )
    if min(effect.n for effect in effects.values()) < LEAST_SEEDS:
        words += f" Fewer than {LEAST_SEEDS} seeds are too few for its 95 % to be trusted, and decide nothing."
    return (
        f"{words} Better or worse: the interval leaves out 0, so that p < {LEVEL}; equivalent: it lies within what matters, "
        "stated before training. Each verdict has its own error rate; the adjusted p is corrected over all comparisons."
    )


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; 0 has a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no negative zero


def size(effect: Difference, digits: int) -> str:
    """Write an effect's mean and its interval in brackets."""
    if effect.interval is None:
        return f"{signed(effect.mean, digits)} (one seed, no interval)"
    return f"{signed(effect.mean, digits)} [{signed(effect.interval[0], digits)}, {signed(effect.interval[1], digits)}]"


def join(names: list[str]) -> str:
    """Write names as a sentence does."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
