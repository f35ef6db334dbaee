"""Say in one sentence what a study found: a sentence for each way in which its verdicts can fall out, true and plain."""

from collections.abc import Mapping, Sequence

from analysis.comparison.effects import COMPARED
from analysis.stats.statistics import BETTER, EQUIVALENT, LEVEL, MOST_SEEDS, UNDECIDED, WORSE, Difference

#: Numbers that are written as words.
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
#: More arms than this are counted in a sentence, not named.
NAMED_ARMS = 4
#: What arms did to a score, by their verdict.
DID = {BETTER: "lowered {}", WORSE: "raised {}", EQUIVALENT: "made no difference that matters to {}"}

Arms = Mapping[str, Difference]


def headline(effects: Arms, baseline: str, margin: float, planned: bool = False) -> str:
    """Say in a sentence which arms lowered the test NLL, and where none is known to, what they did instead.

    effects: by arm, the difference to the baseline, one at least; margin: the smallest difference that matters; planned: the
    study itself adds the seeds that are missing.
    """
    found, against = by_verdict(effects, margin), f"the test NLL against the baseline ({baseline})"
    if set(found) == {UNDECIDED}:
        return _undecided(effects, baseline, margin, "" if planned else could(effects, margin))
    if len(effects) == 1:
        ((word, arms),) = found.items()
        return f"{names(arms)} {DID[word].format(against)}: {size(effects[arms[0]])}"
    if set(found) == {EQUIVALENT}:
        return f"Nothing made a difference that matters to {against}: {everyone(effects)} lie within {margin:g} of it"
    parts = [_part(word, arms, effects) for word, arms in found.items()]
    if BETTER in found:
        return capital("; ".join(parts).replace("lowered it", f"lowered {against}", 1))
    if any(side(effect) < 0 for effect in effects.values()):
        return f"Nothing is known to have lowered {against} by enough to matter: {'; '.join(parts)}"
    return f"Nothing lowered {against}: {'; '.join(parts)}"


def _part(word: str, arms: Sequence[str], effects: Arms) -> str:
    """Say what the arms of one verdict, the lowest mean first, did: of those that are worse or better, which the most."""
    who = subject(arms, effects)
    if word == UNDECIDED:
        return f"{who} {'is' if len(arms) == 1 else 'are'} undecided"
    ends = {BETTER: {"most": arms[0]}, WORSE: {"most": arms[-1]}}.get(word, {})
    if word == WORSE and len(arms) == len(effects):
        ends = {"least": arms[0]} | ends
    return f"{who} {DID[word].format('it')}{_ends(ends, effects, len(arms) > 1)}"


def _ends(ends: Mapping[str, str], effects: Arms, several: bool) -> str:
    """Write the sizes of the arms that moved a score least or most, or of the only one."""
    return "".join(f"{f', {way} for {names([arm])}' * several}: {size(effects[arm])}" for way, arm in ends.items())


def _undecided(effects: Arms, baseline: str, margin: float, plan: str) -> str:
    """Say on which side the means lie, that so few seeds cannot tell, and how many could."""
    verb = "prove" if all(abs(effect.mean) > margin for effect in effects.values()) else "decide"
    lowest, *others = sorted(effects, key=lambda arm: effects[arm].mean)
    n, count, several = max(effect.n for effect in effects.values()), everyone(effects), bool(others)
    seeds = f"{number(n)} seed{'s' * (n > 1)}"
    sides = [side(effect) for effect in effects.values()]
    than = f"than that of the baseline ({baseline})"
    if set(sides) == {1}:
        start = f"Nothing lowered the test NLL: {count} means are" if several else f"The mean test NLL of {names([lowest])} is"
        found = f"{start} higher {than}{_ends({'least': lowest}, effects, several)}"
    elif set(sides) == {-1}:
        start = f"{capital(count)} means of the test NLL are" if several else f"The mean test NLL of {names([lowest])} is"
        found = f"{start} lower {than}{_ends({'most': lowest}, effects, several)}"
    else:
        what = f"{'anything' if several else names([lowest])} lowered the test NLL against the baseline ({baseline})"
        lower = sides.count(-1)
        means = f": {number(lower)} of {number(len(sides))} means {'is' if lower == 1 else 'are'} lower" * several
        ends = _ends({"most": lowest}, effects, several) if lower or not several else ""
        return f"{capital(seeds)} cannot tell whether {what}{means}{ends}{plan.replace(',', ';', 1)}"
    return f"{found}; {seeds} cannot {verb} it{plan}"


def could(effects: Arms, margin: float) -> str:
    """Say how many seeds could decide all of these effects, were they what was found; nothing where none can be planned."""
    needed = [effect.seeds_to_decide(margin) for effect in effects.values()]
    known = sorted({seeds for seeds in needed if seeds is not None})
    if not known:
        return "" if any(effect.error is None for effect in effects.values()) else f", nor could {MOST_SEEDS:,}"
    span = " to ".join(
        number(seeds) if known[-1] < len(WORDS) else f"{seeds:,}" for seeds in dict.fromkeys((known[0], known[-1]))
    )
    return f", about {span} could{' in part' * (None in needed)}"


def corrected(effects: Mapping[str, Difference], told: list[str]) -> str:
    """Say which of the arms that are told from the baseline still are after Holm's correction."""
    lost = [arm for arm in told if effects[arm].adjusted > LEVEL]
    if len(effects) == 1:
        return ""
    stays = "all of that stays" if not lost else f"{'none' if len(lost) == len(told) else 'not all'} of it stays"
    without = f" ({names(lost)}: p ≤ {rounded_p(max(effects[arm].adjusted for arm in lost))})" if lost else ""
    return f"After Holm's correction over {len(effects)} comparisons {stays}{without}."


def rounded_p(p: float) -> str:
    """Write a p-value to two digits, or to as many as tell it from LEVEL."""
    return next(text for digits in range(2, 18) if float(text := f"{p:.{digits}g}") != LEVEL or p == LEVEL)


def by_verdict(effects: Arms, margin: float) -> dict[str, list[str]]:
    """Sort arms by their verdicts in NLL, the lowest mean first; verdicts that no arm has are left out."""
    arms = sorted(effects, key=lambda arm: effects[arm].mean)
    found = {arm: effects[arm].verdict(margin, COMPARED["nll"].more) for arm in arms}
    order = [word for word in (BETTER, WORSE, EQUIVALENT, UNDECIDED) if word in found.values()]
    return {word: [arm for arm in arms if found[arm] == word] for word in order}


def subject(arms: Sequence[str], effects: Arms) -> str:
    """Name the arms, or say how many they are: all, or more than NAMED_ARMS."""
    if len(arms) == len(effects) > 1:
        return everyone(effects)
    return f"{number(len(arms))} of {number(len(effects))}" if len(arms) > NAMED_ARMS else names(arms)


def everyone(effects: Arms) -> str:
    """Say how many all arms are."""
    return "both" if len(effects) == 2 else f"all {number(len(effects))}"


def names(arms: Sequence[str]) -> str:
    """List arms as a sentence does; a name with a comma or an "and" stands in quotes."""
    quoted = [f"“{arm}”" if "," in arm or " and " in arm else arm for arm in arms]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def number(count: int) -> str:
    """Write a number as a word where it has one."""
    return WORDS[count] if count < len(WORDS) else f"{count:,}"


def capital(text: str) -> str:
    """Begin with a capital what begins with a number's word; a name stays as it is."""
    return text[:1].upper() + text[1:] if text.split(" ")[0] in ("all", "both", *WORDS) else text


def side(effect: Difference) -> int:
    """Return on which side of 0 a mean lies, as it is printed: -1, 0 or 1."""
    mean = round(effect.mean, COMPARED["nll"].digits)
    return (mean > 0) - (mean < 0)


def size(effect: Difference) -> str:
    """Write an NLL's difference with its interval."""
    return effect.text(COMPARED["nll"].digits)
