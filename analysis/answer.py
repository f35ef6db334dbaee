"""The study's question answered in plain words with its numbers, or why the data cannot tell."""

from dataclasses import replace

from analysis.load import StudyData
from analysis.statistics import LEVEL, Difference, difference, holm, seeds_needed, smallest_p

#: What is compared: title, metric of the pair on test data, factor and digits for print, whether more is better.
COMPARED = {"nll": ("NLL", 1.0, 4, False), "accuracy": ("accuracy", 100.0, 2, True)}


def differences(study: StudyData, metric: str) -> dict[str, Difference]:
    """Each arm less the baseline, paired by seed, with Holm's correction over the arms; arms without pairs are left out."""
    baseline = study.finished(study.header["baseline"])
    found = {}
    for arm in study.arms:
        if arm == study.header["baseline"]:
            continue
        own = study.finished(arm)
        pairs = [
            own[seed].test["pair"][metric] - baseline[seed].test["pair"][metric]
            for seed in sorted(own.keys() & baseline.keys())
            if own[seed].epochs == baseline[seed].epochs
        ]
        if pairs:
            found[arm] = difference([COMPARED[metric][1] * value for value in pairs])
    adjusted = holm([one.p for one in found.values()])
    return {arm: replace(one, adjusted=p) for (arm, one), p in zip(found.items(), adjusted, strict=True)}


def answer(study: StudyData) -> str:
    """answer.md."""
    lines = [f"# {study.header['question']}", ""]
    baseline = study.header["baseline"]
    if baseline is None or not study.finished(baseline):
        lines.append(f"There is no answer yet: the baseline ({baseline}) has no finished trial.")
        return "\n".join(lines) + "\n"
    found = differences(study, "nll")
    if not found:
        lines.append(f"There is no answer yet: no arm has a finished trial on a seed of the baseline ({baseline}).")
        return "\n".join(lines) + "\n"
    lines += [_verdict(study, found), ""]
    lines += [*_list(study, "nll", found), "", *_list(study, "accuracy", differences(study, "accuracy"))]
    lines += ["", *_cautions(study, found)]
    return "\n".join(lines) + "\n"


def _verdict(study: StudyData, found: dict[str, Difference]) -> str:
    better = [arm for arm, one in found.items() if one.adjusted <= LEVEL and one.mean < 0]
    worse = [arm for arm, one in found.items() if one.adjusted <= LEVEL and one.mean > 0]
    best = min(found, key=lambda arm: found[arm].mean)
    baseline = study.header["baseline"]
    one = found[best]
    if better:
        words = f"**{_join(better)} lower{'s' * (len(better) == 1)} the test NLL of {baseline}** (Holm-adjusted p ≤ {LEVEL})."
        words += f" The largest mean gain is that of {best}: {_signed(one.mean, 4)}{_interval(one, 4)}."
        if worse:
            words += f" {_join(worse)} raise{'s' * (len(worse) == 1)} it."
        return words + " The arms were not tested against each other: being the best mean is no proof of being the best."
    if worse:
        return (
            f"**No arm lowers the test NLL of {baseline}; {_join(worse)} raise{'s' * (len(worse) == 1)} it** "
            f"(Holm-adjusted p ≤ {LEVEL})."
        )
    n, needed = min(item.n for item in found.values()), seeds_needed(len(found))
    words = f"**The data cannot tell.** The best mean is that of {best}: a difference in test NLL to {baseline} of "
    words += f"{_signed(one.mean, 4)}{_interval(one, 4)}."
    if len(found) * smallest_p(n) > LEVEL:
        words += (
            f" With {n} paired seeds the smallest p that the test can give is {smallest_p(n):.2g} before correction over "
            f"{len(found)} comparisons, so it cannot reach {LEVEL}: that takes at least {needed} seeds (`--seeds {needed}`)."
        )
    else:
        words += f" Its adjusted p is {one.adjusted:.2g}."
    return words


def _list(study: StudyData, metric: str, found: dict[str, Difference]) -> list[str]:
    title, _, digits, _ = COMPARED[metric]
    unit = " in percentage points" if metric == "accuracy" else ""
    lines = [
        f"Difference in test {title}{unit} to {study.header['baseline']}, paired by seed, mean [95 % t interval]:",
        "",
    ]
    for arm, one in found.items():
        lines.append(
            f"- {arm}: {_signed(one.mean, digits)}{_interval(one, digits)}, sign-flip p = {one.p:.2g}, "
            f"Holm-adjusted {one.adjusted:.2g}, n = {one.n}"
        )
    return lines


def _cautions(study: StudyData, found: dict[str, Difference]) -> list[str]:
    lines = [
        "The interval takes the paired differences as normally distributed; the exact two-sided sign-flip test takes them as "
        "symmetric. It covers seeds, not the choice of test images: all seeds share one test set.",
        f"All arms trained for {study.header['settings']['epochs']} epochs on the same data, with the same search budget "
        f"({study.header['samples']} trials); arms of one seed saw the same batches, augmentations and weight noise.",
    ]
    if study.header.get("data_is_subset") or study.header["preset"] == "demo":
        lines.append(f"This is a small run ({study.header['data']}): it says nothing about other sizes.")
    missing = study.missing()
    if missing:
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    unequal = [
        arm
        for arm in found
        for seed, record in study.finished(arm).items()
        if (base := study.finished(study.header["baseline"]).get(seed)) and base.epochs != record.epochs
    ]
    if unequal:
        lines.append(f"Left out, because the numbers of epochs differ: pairs of {_join(sorted(set(unequal)))}.")
    return lines


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}"


def _interval(one: Difference, digits: int) -> str:
    return f" [{one.interval[0]:+.{digits}f}, {one.interval[1]:+.{digits}f}]" if one.interval else " (one seed, no interval)"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
