"""The study's question answered in plain words with its numbers, or why the data cannot tell."""

from analysis.records.effects import COMPARED, Effects
from analysis.records.load import StudyData
from analysis.stats.statistics import LEVEL, Difference, detectable, seeds_for_power, seeds_needed, smallest_p

#: The chance with which a planned study is to show an effect of the size observed.
POWER = 0.8


def answer(study: StudyData, found: Effects, contrasts: Effects, further: list[str], numbers: bool = True) -> str:
    """answer.md. further: paragraphs that a study's own kind of question adds; numbers: with every difference's."""
    lines = [f"# {study.header['question']}", ""]
    baseline = study.baseline
    if baseline is None or not study.finished(baseline):
        lines.append(f"There is no answer yet: the baseline ({baseline}) has no finished trial.")
        return "\n".join(lines) + "\n"
    if not found["nll"]:
        lines.append(f"There is no answer yet: no arm has a finished trial on a seed of the baseline ({baseline}).")
        return "\n".join(lines) + "\n"
    lines += [_verdict(study, found["nll"]), ""]
    for one in further:
        lines += [one, ""]
    if contrasts["nll"]:
        lines += [_contrasts(contrasts["nll"]), ""]
    if numbers:
        for metric in COMPARED:
            lines += [*_list(f"to {baseline}", metric, found[metric]), ""]
        for metric in COMPARED if contrasts["nll"] else ():
            lines += [*_list("", metric, contrasts[metric]), ""]
    lines += [_power(found["nll"]), "", *_cautions(study, found["nll"])]
    return "\n".join(lines) + "\n"


def _verdict(study: StudyData, found: dict[str, Difference]) -> str:
    better = [arm for arm, one in found.items() if one.adjusted <= LEVEL and one.mean < 0]
    worse = [arm for arm, one in found.items() if one.adjusted <= LEVEL and one.mean > 0]
    best = min(found, key=lambda arm: found[arm].mean)
    baseline = study.baseline
    one = found[best]
    if better:
        words = f"**{_join(better)} lower{'s' * (len(better) == 1)} the test NLL of {baseline}** (Holm-adjusted p ≤ {LEVEL})."
        words += f" The largest mean gain is that of {best}: {signed(one.mean, 4)}{interval(one, 4)}."
        if worse:
            words += f" {_join(worse)} raise{'s' * (len(worse) == 1)} it."
        if len(found) > 1:
            words += " The arms were not tested against each other: being the best mean is no proof of being the best."
        return words
    if worse:
        return (
            f"**No arm lowers the test NLL of {baseline}; {_join(worse)} raise{'s' * (len(worse) == 1)} it** "
            f"(Holm-adjusted p ≤ {LEVEL})."
        )
    n, needed = min(item.n for item in found.values()), seeds_needed(len(found))
    words = f"**The data cannot tell.** The best mean is that of {best}: a difference in test NLL to {baseline} of "
    words += f"{signed(one.mean, 4)}{interval(one, 4)}."
    if len(found) * smallest_p(n) > LEVEL:
        words += (
            f" With {n} paired seeds the smallest p that the test can give is {smallest_p(n):.2g} before correction over "
            f"{len(found)} comparison{'s' * (len(found) > 1)}, so it cannot reach {LEVEL}: that takes at least {needed} seeds "
            f"(`--seeds {needed}`)."
        )
    else:
        words += f" Its adjusted p is {one.adjusted:.2g}."
    return words


def _contrasts(found: dict[str, Difference]) -> str:
    """Which contrasts in NLL are told from 0."""
    shown = [f"{name} ({signed(one.mean, 4)})" for name, one in found.items() if one.adjusted <= LEVEL]
    if shown:
        return f"**Told from 0 in test NLL** (Holm-adjusted p ≤ {LEVEL} over {len(found)} contrasts): {_join(shown)}."
    return f"No contrast in test NLL can be told from 0 (Holm-adjusted over {len(found)} contrasts)."


def _list(to: str, metric: str, found: dict[str, Difference]) -> list[str]:
    compared = COMPARED[metric]
    of = (
        f"Difference in test {compared.title}{compared.unit} {to}"
        if to
        else f"Contrasts in test {compared.title}{compared.unit}"
    )
    return [
        f"{of}, paired by seed, mean [95 % interval]:",
        "",
        *(
            f"- {name}: {signed(one.mean, compared.digits)}{interval(one, compared.digits)}, sign-flip p = {one.p:.2g}, "
            f"Holm-adjusted {one.adjusted:.2g}, n = {one.n}"
            for name, one in found.items()
        ),
    ]


def _power(found: dict[str, Difference]) -> str:
    """How many seeds it would take, and what so many seeds could have shown."""
    best = min(found, key=lambda arm: found[arm].mean)
    one, family = found[best], len(found)
    words = f"Power: for a difference in NLL as observed for {best} ({signed(one.mean, 4)}, sample standard deviation "
    if one.deviation is None:
        return f"Power: one seed says nothing of how differences vary, so nothing can be planned from it ({best})."
    words += f"{one.deviation:.4f} over seeds), showing it with a chance of {POWER:.0%} after Holm's correction takes "
    needed = seeds_for_power(one.mean, one.deviation, family, POWER)
    words += f"about {needed} seeds" if needed is not None else "more than 10,000 seeds"
    smallest = detectable(one.deviation, one.n, family, POWER)
    if smallest is None:
        words += f"; {one.n} seeds cannot show a difference of any size."
    else:
        words += f"; {one.n} seeds show one of {smallest:.4f} or more with that chance."
    return words + " The deviation is itself an estimate from these seeds: a plan, not a promise."


def _cautions(study: StudyData, found: dict[str, Difference]) -> list[str]:
    lines = [_intervals(found)]
    header = study.header
    if any(header["searched"].values()) and header["samples"]:
        lines.append(
            f"Arms were tuned with the same search budget ({header['samples']} trials each, on validation data) where they "
            "have something to tune, and repeated on fresh seeds; arms of one seed saw the same batches, augmentations and "
            "weight noise."
        )
    if study.development:
        lines.append(f"Wherever this says test, it means {study.scored}; the official test set is unused.")
    if header.get("data_is_subset") or header["preset"] == "demo":
        lines.append(f"This is a small run ({header['data']}): it says nothing about other sizes.")
    if missing := study.missing():
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    baseline = study.finished(study.baseline or "")
    unequal = [
        arm
        for arm in found
        for seed, record in study.finished(arm).items()
        if seed in baseline and baseline[seed].epochs != record.epochs
    ]
    if unequal:
        lines.append(f"Left out, because the numbers of epochs differ: pairs of {_join(sorted(set(unequal)))}.")
    return lines


def _intervals(found: dict[str, Difference]) -> str:
    images = {one.images for one in found.values()}
    if images == {None}:
        words = (
            "Intervals are t intervals over seeds; they do not cover the choice of test images (predictions are missing, or "
            "there is one seed)."
        )
    else:
        words = (
            f"Intervals hold over seeds and over test images together ({max(one or 0 for one in images):,} images, shared by "
            "all seeds): a two-way bootstrap with t quantiles."
        )
        if min(one.n for one in found.values()) < 3:
            words += " Two seeds are too few for its 95 % to be trusted."
    return f"{words} The test is the exact two-sided sign-flip test over seeds, which takes differences as symmetric."


def signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no negative zero


def interval(one: Difference, digits: int) -> str:
    if one.interval is None:
        return " (one seed, no interval)"
    return f" [{signed(one.interval[0], digits)}, {signed(one.interval[1], digits)}]"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
