"""Answer the study's question in plain words with its numbers, or say why the data cannot tell."""

from collections.abc import Mapping, Sequence

from analysis.answer import headline
from analysis.answer.headline import names, rounded_p
from analysis.answer.notes import SCALED, notes
from analysis.comparison.effects import COMPARED, Effects, verdict
from analysis.markdown import table
from analysis.records.load import StudyData
from analysis.stats.statistics import BETTER, MOST_SEEDS, POWER, UNDECIDED, WORSE, Difference, interval_name

#: A smaller p-value is not written out.
LEAST_P = "0.0001"
#: Columns of the tables that say what becomes of the arms away from the test images: their heads here, and digits.
ELSEWHERE = {
    "shift_nll": ("NLL, corrupted", 4), "shift_accuracy": ("accuracy in points, corrupted", 2),
    "shift_ece": ("ECE in points, corrupted", 2), "ood_entropy": ("other images, by entropy", 4),
    "ood_mi": ("other images, by MI", 4),
}  # fmt: skip
#: What images those are, by how the columns' names begin.
AWAY = {
    "shift": "on corrupted test images (15 kinds, mean over five severities)",
    "ood": "in telling images of another kind, the first set, from test images (area under the ROC curve)",
}
#: Heads of the tables.
ARMS, CONTRASTS = "Difference", "Contrasts"


def answer(
    study: StudyData, effects: Effects, contrasts: Effects, further: Sequence[str],
    singles: Mapping[str, Effects] | None = None, elsewhere: Effects | None = None, elsewhere_contrasts: Effects | None = None,
) -> str:  # fmt: skip
    """Write answer.md: what was found, what else the records say of it, every difference.

    effects, contrasts: differences to the baseline and contrasts, in printed units; further: sentences that stand beside what
    was found; singles: the differences once more, by whose predictions the arms are judged: their single peers', those after
    temperature scaling; elsewhere, elsewhere_contrasts: differences and contrasts by column of ELSEWHERE.
    """
    parts = [f"# {study.header.question}", *([study.rescored] if study.rescored else []), found(study, effects)]
    if noted := notes(study, effects, contrasts, further, singles or {}, elsewhere or {}):
        parts += ["What else the records say:", "\n".join(f"- {note}" for note in noted)]
    parts += [*numbers(study, effects, contrasts), *by_whom(study, effects, singles or {})]
    parts += beyond(study, elsewhere or {}, elsewhere_contrasts or {})
    return "\n\n".join(parts) + "\n"


def found(study: StudyData, effects: Effects) -> str:
    """Answer the question in a sentence, and say how to read it and how sure it is: a paragraph of Markdown each."""
    if (baseline := study.baseline) is None or not study.finished(baseline):
        return f"There is no answer yet: the baseline ({baseline}) has no finished trial."
    if not study.header.compare:
        return f"There is nothing to answer: the study compares no arm with the baseline ({baseline})."
    if not (nll := effects["nll"]):
        return f"There is no answer yet: no arm has a finished trial on a seed of the baseline ({baseline})."
    margin, header = study.header.margins["nll"], study.header
    by_verdict = headline.by_verdict(nll, margin)
    several = any(effect.interval is not None for effect in nll.values())
    brackets = f"; in brackets: {interval_name(header.level)}s" if several else ""
    words = [
        f"NLL is the negative log-likelihood, lower is better{brackets}. A difference below {margin:g} does not matter, as was "
        "stated before training."
    ]
    if told := by_verdict.get(BETTER, []) + by_verdict.get(WORSE, []):
        words.append(headline.corrected(nll, told))
    if BETTER in by_verdict and len(nll) > 1:
        words.append("The arms were not tested against each other: the best mean is no proof of being the best.")
    if arms := by_verdict.get(UNDECIDED):
        words.append(_further(study, arms) if header.looks else _plan({arm: nll[arm] for arm in arms}, margin))
    sentence = headline.headline(nll, baseline, margin, planned=bool(header.looks))
    return f"**{sentence}.**\n\n{' '.join(word for word in words if word)}"


def numbers(study: StudyData, effects: Effects, contrasts: Effects, whole: bool = True) -> list[str]:
    """Tabulate every difference and contrast as Markdown, by metric; whole: with verdicts and sizes, else p and chances."""
    parts = []
    for kind, to, of_metrics in ((ARMS, f" to {study.baseline}", effects), (CONTRASTS, "", contrasts)):
        for metric in COMPARED:
            if of_metric := of_metrics.get(metric):
                parts += _table(study, (kind, to), metric, of_metric, whole)
    return parts


def _table(study: StudyData, kind: tuple[str, str], metric: str, effects: Mapping[str, Difference], whole: bool) -> list[str]:
    compared, margin = COMPARED[metric], study.header.margins[metric]
    several = len({effect.n for effect in effects.values()}) > 1
    shared = "" if several else f", n = {next(iter(effects.values())).n}"
    matters = f" (what matters: {margin:g})" if whole else ""
    head = f"{kind[0]} in test {compared.title}{compared.unit}{kind[1]}, paired by seed{shared}{matters}:"
    tested = any(effect.tested for effect in effects.values())
    columns: dict[str, list[str]] = {study.header.scientific: list(effects)}
    if whole:
        columns["verdict"] = [verdict(effect, metric, margin, kind[0] == CONTRASTS) for effect in effects.values()]
        columns[f"mean [{interval_name(study.header.level)}]"] = [effect.text(compared.digits) for effect in effects.values()]
    if tested:
        columns["p"] = [written_p(effect.p) if effect.tested else "-" for effect in effects.values()]
        columns["p, Holm"] = [written_p(effect.adjusted) if effect.tested else "-" for effect in effects.values()]
    if tested and kind[0] == ARMS:
        columns["chance to be better"] = [_chance(effect, metric) for effect in effects.values()]
    if several:
        columns["n"] = [str(effect.n) for effect in effects.values()]
    if len(columns) == 1:
        return []
    return [head, table(columns, zip(*columns.values(), strict=True))]


def _further(study: StudyData, arms: list[str]) -> str:
    """Say what becomes of what is undecided in a study that adds seeds as needed."""
    taken, planned = len(study.looks[-1]), study.header.looks
    if taken < planned[-1]:
        return f"The same command goes on to {planned[planned.index(taken) + 1]} seeds."
    return (
        f"With {taken} seeds, the stated most, {'that stays' if len(arms) == 1 else 'those stay'} undecided; more seeds are "
        "another study (`--seeds auto:MOST`, another `--out`): this one has stated its looks."
    )


def by_whom(study: StudyData, effects: Effects, singles: Mapping[str, Effects]) -> list[str]:
    """Tabulate the verdicts by whose predictions an arm is judged, a table for each metric; nothing without single peers."""
    parts = []
    for metric in [metric for metric in COMPARED if singles and effects["nll"]]:
        compared, margin = COMPARED[metric], study.header.margins[metric]
        columns = {
            "as the arm is judged": effects[metric],
            **{name: of[metric] for name, of in singles.items() if metric in of},
        }
        if len(columns) == 1:
            continue
        rows = [[arm, *(_cell(of.get(arm), metric, margin) for of in columns.values())] for arm in effects[metric]]
        interval = interval_name(study.header.level)
        also = ", and after temperature scaling (over seeds alone)" if metric in singles.get(SCALED, {}) else ""
        what = f"difference in test {compared.title}{compared.unit}, verdict, mean [{interval}]"
        parts.append(f"The same by whose predictions{also}: {what}:")
        parts.append(table([study.header.scientific, *columns], rows))
    return parts


def beyond(study: StudyData, differences: Effects, contrasts: Effects) -> list[str]:
    """Tabulate differences to the baseline, and contrasts, on corrupted and other images; nothing without such scores."""
    parts = []
    for kind, to, family, of_columns in (
        (ARMS, f" to {study.baseline}", "arms", differences), (CONTRASTS, "", "contrasts", contrasts)
    ):  # fmt: skip
        if not of_columns:
            continue
        kinds = [words for of, words in AWAY.items() if any(name.startswith(of) for name in of_columns)]
        interval = f"mean [{interval_name(study.header.level)}] over seeds alone; p after Holm over the {family}"
        head = [study.header.scientific, *(ELSEWHERE[name][0] for name in of_columns)]
        titles = dict.fromkeys(title for effects in of_columns.values() for title in effects)
        rows = [[title, *(_beyond(of.get(title), ELSEWHERE[name][1]) for name, of in of_columns.items())] for title in titles]
        parts += [f"{kind}{to} {', and '.join(kinds)}: {interval}:", table(head, rows)]
    return parts


def _beyond(effect: Difference | None, digits: int) -> str:
    if effect is None:
        return "-"
    return f"{effect.text(digits)}{f', p {written_p(effect.adjusted)}' if effect.tested else ''}"


def _cell(effect: Difference | None, metric: str, margin: float) -> str:
    return "-" if effect is None else f"{verdict(effect, metric, margin)}, {effect.text(COMPARED[metric].digits)}"


def _plan(effects: Mapping[str, Difference], margin: float) -> str:
    """Say how many seeds would decide what is undecided, were the differences what was found."""
    lone = [arm for arm, effect in effects.items() if effect.error is None]
    alone = "One seed says nothing of how differences vary: it decides nothing, and nothing can be planned from it"
    if len(lone) == len(effects):
        return f"{alone}."
    if lone:
        return f"{_plan({arm: effect for arm, effect in effects.items() if arm not in lone}, margin)} {alone} ({names(lone)})."
    needed = {arm: effect.seeds_to_decide(margin) for arm, effect in effects.items()}
    known = {arm: number for arm, number in needed.items() if number is not None}
    never = [arm for arm in needed if arm not in known]
    chance = f"with a chance of {POWER:.0%}, were the true differences those found here"
    if not known:
        why = "a difference is as large as what matters, or the images are few"
        return f"Not even {MOST_SEEDS:,} seeds would decide {chance}: {why}."
    n = max(known.values())
    beside = f", of {names(never)} not even {MOST_SEEDS:,}" if never else ""
    which = "that" if len(known) == 1 else "those"
    return f"About {n} seeds would decide {which} (`--seeds {n}`){beside}, {chance}: a plan, not a promise."


def describe(effect: Difference, metric: str) -> str:
    """Write an effect's mean, interval, number of seeds, and, where those are enough, its p-values and chance to be better."""
    size = f"{effect.text(COMPARED[metric].digits)}, n = {effect.n}"
    if not effect.tested:
        return size
    p, adjusted = (written_p(value) for value in (effect.p, effect.adjusted))
    said = f"p = {p}, Holm-adjusted {adjusted}".replace("= <", "<")
    return f"{size}, {said}, better with a chance of {_chance(effect, metric)}"


def _chance(effect: Difference, metric: str) -> str:
    above = effect.chance_above
    return "-" if above is None or not effect.tested else percent(above if COMPARED[metric].more else 1 - above)


def written_p(p: float) -> str:
    """Write a p-value; how small one of a few seeds is, once it is below LEAST_P, says nothing."""
    return f"< {LEAST_P}" if p < float(LEAST_P) else rounded_p(p)


def percent(chance: float) -> str:
    """Write a chance, which is never quite 0 or 1."""
    return "< 0.1 %" if chance < 0.001 else "> 99.9 %" if chance > 0.999 else f"{100 * chance:.3g} %"
