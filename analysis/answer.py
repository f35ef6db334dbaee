"""Answer the study's question in plain words with its numbers, or say why the data cannot tell."""

from collections.abc import Mapping

from analysis.records.effects import COMPARED, Effects
from analysis.records.load import StudyData
from analysis.stats.statistics import LEVEL, POWER, Difference, detectable, seeds_for_power, seeds_needed, smallest_p


def answer(study: StudyData, effects: Effects, contrasts: Effects, further: list[str], numbers: bool = True) -> str:
    """Write answer.md.

    effects, contrasts: differences to the baseline and contrasts, in printed units; further: paragraphs that a study's own
    kind of question adds; numbers: list every difference.
    """
    lines = [f"# {study.header.question}", ""]
    baseline = study.baseline
    if baseline is None or not study.finished(baseline):
        lines.append(f"There is no answer yet: the baseline ({baseline}) has no finished trial.")
        return "\n".join(lines) + "\n"
    if not effects["nll"]:
        lines.append(f"There is no answer yet: no arm has a finished trial on a seed of the baseline ({baseline}).")
        return "\n".join(lines) + "\n"
    paragraphs = [_verdict(baseline, effects["nll"]), *further]
    if contrasts["nll"]:
        paragraphs.append(_contrasts(contrasts["nll"]))
    if numbers:
        paragraphs += [_list("Difference", f" to {baseline}", metric, effects[metric]) for metric in COMPARED]
        paragraphs += [_list("Contrasts", "", metric, contrasts[metric]) for metric in COMPARED if contrasts["nll"]]
    for paragraph in [*paragraphs, _power(effects["nll"])]:
        lines += [paragraph, ""]
    return "\n".join([*lines, *_cautions(study, effects["nll"])]) + "\n"


def _verdict(baseline: str, effects: Mapping[str, Difference]) -> str:
    told = [arm for arm, effect in effects.items() if effect.adjusted <= LEVEL]
    better, worse = ([arm for arm in told if sign * effects[arm].mean > 0] for sign in (-1, 1))
    best = min(effects, key=lambda arm: effects[arm].mean)
    size = f"{signed(effects[best].mean, 4)}{interval(effects[best], 4)}"
    raised = f"{_join(worse)} raise{'s' * (len(worse) == 1)} it" if worse else ""
    if better:
        words = f"**{_join(better)} lower{'s' * (len(better) == 1)} the test NLL of {baseline}** (Holm-adjusted p ≤ {LEVEL})."
        words += f" The largest mean gain is that of {best}: {size}."
        words += f" {raised}." if worse else ""
        if len(effects) > 1:
            words += " The arms were not tested against each other: being the best mean is no proof of being the best."
        return words
    if worse:
        return f"**No arm lowers the test NLL of {baseline}; {raised}** (Holm-adjusted p ≤ {LEVEL})."
    if all(effect.mean > 0 for effect in effects.values()):
        all_of_them = (
            f"all {len(effects)} raised it, the least {best}: {size}" if len(effects) > 1 else f"{best} raised it: {size}"
        )
        said = f"**No arm lowered the test NLL of {baseline}** in these seeds; {all_of_them}. That they raise it is not proven."
    else:
        said = f"**The data cannot tell.** The best mean is that of {best}: a difference in test NLL to {baseline} of {size}."
    return f"{said} {_why_untold(effects, best)}"


def _why_untold(effects: Mapping[str, Difference], best: str) -> str:
    """Say that so few seeds could not tell, or the best arm's p where they could."""
    n, comparisons = min(effect.n for effect in effects.values()), len(effects)
    if comparisons * smallest_p(n) <= LEVEL:
        return f"Its adjusted p is {effects[best].adjusted:.2g}."
    needed = seeds_needed(comparisons)
    return (
        f"With {n} paired seeds the smallest p that the test can give is {smallest_p(n):.2g} before correction over "
        f"{comparisons} comparison{'s' * (comparisons > 1)}, so it cannot reach {LEVEL}: that takes at least {needed} seeds "
        f"(`--seeds {needed}`)."
    )


def _contrasts(contrasts: Mapping[str, Difference]) -> str:
    """Say which contrasts in NLL are told from 0."""
    told = [f"{name} ({signed(effect.mean, 4)})" for name, effect in contrasts.items() if effect.adjusted <= LEVEL]
    if told:
        return f"**Told from 0 in test NLL** (Holm-adjusted p ≤ {LEVEL} over {len(contrasts)} contrasts): {_join(told)}."
    return f"No contrast in test NLL can be told from 0 (Holm-adjusted over {len(contrasts)} contrasts)."


def _list(kind: str, to: str, metric: str, effects: Mapping[str, Difference]) -> str:
    compared = COMPARED[metric]
    head = f"{kind} in test {compared.title}{compared.unit}{to}, paired by seed, mean [95 % interval]:"
    return "\n".join([head, "", *(f"- {name}: {describe(effect, compared.digits)}" for name, effect in effects.items())])


def describe(effect: Difference, digits: int) -> str:
    """Write an effect's mean, interval, p-values and number of seeds."""
    return (
        f"{signed(effect.mean, digits)}{interval(effect, digits)}, sign-flip p = {effect.p:.2g}, Holm-adjusted "
        f"{effect.adjusted:.2g}, n = {effect.n}"
    )


def _power(effects: Mapping[str, Difference]) -> str:
    """Say how many seeds it would take, and what so many seeds could have shown."""
    best = min(effects, key=lambda arm: effects[arm].mean)
    effect, comparisons = effects[best], len(effects)
    if effect.deviation is None:
        return f"Power: one seed says nothing of how differences vary, so nothing can be planned from it ({best})."
    smallest = detectable(effect.deviation, effect.n, comparisons, POWER)
    if effect.mean > 0:
        could = "no gain of any size" if smallest is None else f"a gain of {smallest:.4f} or more"
        return (
            f"Power: no arm has a gain to plan for. With {effect.n} seeds and differences that vary as those of {best} do "
            f"(sample standard deviation {effect.deviation:.4f}), {could} would be shown with a chance of {POWER:.0%} after "
            "Holm's correction."
        )
    needed = seeds_for_power(effect.mean, effect.deviation, comparisons, POWER)
    shown = "cannot show a difference of any size." if smallest is None else (
        f"show one of {smallest:.4f} or more with that chance."
    )  # fmt: skip
    return (
        f"Power: for a difference in NLL as observed for {best} ({signed(effect.mean, 4)}, sample standard deviation "
        f"{effect.deviation:.4f} over seeds), showing it with a chance of {POWER:.0%} after Holm's correction takes "
        f"{f'about {needed}' if needed is not None else 'more than 10,000'} seeds; {effect.n} seeds {shown} The deviation is "
        "itself an estimate from these seeds: a plan, not a promise."
    )


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
        lines.append(f"Left out, because the numbers of epochs differ: pairs of {_join(sorted(set(unequal)))}.")
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
        if min(effect.n for effect in effects.values()) < 3:
            words += " Two seeds are too few for its 95 % to be trusted."
    return f"{words} The test is the exact two-sided sign-flip test over seeds, which takes differences as symmetric."


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; 0 has a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no negative zero


def interval(effect: Difference, digits: int) -> str:
    """Write an effect's interval in brackets, after a space."""
    if effect.interval is None:
        return " (one seed, no interval)"
    return f" [{signed(effect.interval[0], digits)}, {signed(effect.interval[1], digits)}]"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
