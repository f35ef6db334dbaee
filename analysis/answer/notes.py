"""Say what else the records know that bears on the answer: other scores, single peers, contrasts, cautions."""

from collections.abc import Mapping, Sequence

from analysis.answer.headline import NAMED_ARMS, corrected, names, subject
from analysis.comparison.effects import COMPARED, Effects, epochs_short, verdict
from analysis.records.load import StudyData
from analysis.stats.statistics import BETTER, EQUIVALENT, LEAST_SEEDS, LEVEL, WORSE, Difference, interval_name
from mldiv.records.contents import GIVEN

#: What stands beside how an arm is judged, where it was fitted: the same after temperature scaling.
SCALED = "after temperature scaling"


def notes(
    study: StudyData, effects: Effects, contrasts: Effects, further: Sequence[str], singles: Mapping[str, Effects],
    elsewhere: Effects,
) -> list[str]:  # fmt: skip
    """Say what else the records know that bears on the answer, a Markdown sentence or two each; arguments as of `answer`."""
    if not effects.get("nll"):
        return list(further)
    lines = [*further, *_looks(study), *_others(study, effects), *_unlike(study, effects["nll"], singles, elsewhere)]
    if contrasts["nll"]:
        lines.append(_contrasts(study, contrasts["nll"]))
    return [*lines, *_cautions(study, effects["nll"]), _intervals(effects["nll"])]


def _looks(study: StudyData) -> list[str]:
    """Say when a study that adds seeds as needed has looked, and at which level."""
    planned, level = study.header.looks, study.header.level
    if not planned:
        return []
    return [
        f"**Seeds were added as needed**: after looks at {names([str(len(seeds)) for seeds in study.looks])} seeds, of "
        f"{names(list(map(str, planned)))} planned before training. Each look has {interval_name(level)}s, and p is multiplied "
        f"by {len(planned)}, so that over all looks together a verdict errs at most as often as one at a level of {LEVEL:.0%}. "
        "What a look has decided stays decided: verdict, mean, interval and n are that look's, of the undecided the last "
        "one's. Tables hold the means of all seeds."
    ]


def _others(study: StudyData, effects: Effects) -> list[str]:
    """Say which arms the other scores tell from the baseline: the sentence about NLL says nothing of them."""
    lines = []
    for metric in [metric for metric in COMPARED if metric != "nll" and effects.get(metric)]:
        arms, compared, margin = effects[metric], COMPARED[metric], study.header.margins[metric]
        told = {word: [arm for arm in arms if verdict(arms[arm], metric, margin) == word] for word in (BETTER, WORSE)}
        parts = []
        for word, found in [(word, found) for word, found in told.items() if found]:
            found.sort(key=lambda arm: -abs(arms[arm].mean))
            few = len(found) <= NAMED_ARMS
            sizes = [f"{names([arm])} ({arms[arm].text(compared.digits)})" for arm in (found if few else found[:1])]
            parts.append(f"{word}: {', '.join(sizes)}" if few else f"{subject(found, arms)} {word}, most {sizes[0]}")
        if parts:
            stays = corrected(arms, [*told[BETTER], *told[WORSE]])
            lines.append(f"**By {compared.title}**{compared.unit}, {'; '.join(parts)}. {stays}".rstrip())
        else:
            lines.append(f"**By {compared.title}** no arm is known to be better or worse.")
    return lines


def _unlike(
    study: StudyData, effects: Mapping[str, Difference], singles: Mapping[str, Effects], elsewhere: Effects
) -> list[str]:  # fmt: skip
    """Say where single peers are not as the pair, where a temperature makes a difference or takes it, and corrupted images."""
    of_peers = next((of for whose, of in singles.items() if whose != SCALED), {})
    scaled = "Temperature scaling, fitted on validation images, leaves the verdicts by NLL as they are."
    margin, said = study.header.margins["nll"], []
    for words, same, others in (
        (
            "By the mean NLL of its single peers",
            "The mean of the single peers gives the same verdicts by NLL.",
            of_peers.get("nll"),
        ),
        ("By NLL after temperature scaling", scaled, singles.get(SCALED, {}).get("nll")),
        ("By NLL on corrupted images", "Corrupted images give the same verdicts by NLL.", elsewhere.get("shift_nll")),
    ):
        other, found = others or {}, []
        for arm in [arm for arm in effects if arm in other]:
            now, then = (verdict(judged[arm], "nll", margin) for judged in (effects, other))
            if now != then:
                found.append(f"{arm} is {then} ({other[arm].text(4)}) and not {now}")
        if other:
            said.append(f"**{words}**, {'; '.join(found)}." if found else same)
    return said


def _contrasts(study: StudyData, contrasts: Mapping[str, Difference]) -> str:
    """Say which contrasts in NLL are not 0, and which are too small to matter."""
    margin = study.header.margins["nll"]
    verdicts = {name: verdict(effect, "nll", margin, contrast=True) for name, effect in contrasts.items()}
    told = [f"{names([name])} is {word} ({contrasts[name].text(4)})" for name, word in verdicts.items() if word.endswith(" 0")]
    small = [name for name, word in verdicts.items() if word == EQUIVALENT]
    found = [*told, *([f"too small to matter: {names(small)}"] if small else [])]
    said = f"**Contrasts in test NLL**: {'; '.join(found) or 'none is known not to be 0, none to be too small to matter'}."
    stays = corrected(contrasts, [name for name, word in verdicts.items() if word.endswith(" 0")]) if told else ""
    return f"{said} {stays}".rstrip()


def _cautions(study: StudyData, effects: Mapping[str, Difference]) -> list[str]:
    lines = []
    header = study.header
    if header.has_search:
        each = f"{header.samples} trial{'s' * (header.samples > 1)} each"
        lines.append(
            f"Arms were tuned with the same search budget ({each}, on validation data) where they "
            "have something to tune, and repeated on fresh seeds; arms of one seed saw the same batches, augmentations and "
            "weight noise."
        )
    if given := [arm for arm in study.arms if any(record.id.startswith(GIVEN) for record in study.finished(arm).values())]:
        lines.append(
            f"**Trained elsewhere**: {names(given)}. Only predictions were given: how they were tuned, on which images, how "
            "often, is in no record, and only the test images are shared. Their intervals hold; what is said of budgets, "
            "batches and noise is of the other arms."
        )
    if header.grown:
        before = names([f"{seeds} seed{'s' * (seeds > 1)} of {arms} arms" for seeds, arms in header.grown])
        lines.append(
            f"**The study grew after a report**: of {before}. If that report led to it, a verdict errs more often than stated; "
            "`--seeds auto:MOST` states its looks beforehand."
        )
    arms = [arm for arm in study.arms if arm in effects or arm == study.baseline]
    counts = {header.changes.get(arm, {}).get("peers", header.settings.get("peers", 2)) for arm in arms}
    if len(counts) > 1:
        lines.append(f"Arms have {names(sorted(map(str, counts)))} networks: the tables say what each costs.")
    if study.development:
        lines.append(f"Wherever this says test, it means {study.scored}; the official test set is unused.")
    if header.data_is_subset or header.preset == "demo":
        lines.append(f"This is a small run, and says nothing about other sizes: {header.data}.")
    if missing := study.missing():
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    baseline = study.finished(study.baseline or "")
    unequal = [
        arm
        for arm in effects
        for seed, record in study.finished(arm).items()
        if seed in baseline and epochs_short(baseline[seed]) != epochs_short(record)
    ]
    if unequal:
        lines.append(f"Left out, because the numbers of epochs differ: pairs of {names(sorted(set(unequal)))}.")
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
        if alone := [arm for arm, effect in effects.items() if effect.images is None and effect.interval]:
            words += f" Where predictions are missing ({names(alone)}), they hold over seeds alone."
    if min(effect.n for effect in effects.values()) < LEAST_SEEDS:
        words += f" Fewer than {LEAST_SEEDS} seeds are too few for its 95 % to be trusted: they decide nothing, and have no p."
    return (
        f"{words} Better or worse: the interval leaves out 0, so that p < {LEVEL}; equivalent: it lies within what matters, "
        "stated before training. Each verdict has its own error rate; the adjusted p is corrected over the arms, or the "
        "contrasts, of one score. The chance to be better is half of p, or 1 less that: as if every "
        "difference had been as likely beforehand."
    )
