"""When a study that adds seeds as needed looks at its comparisons. What a look decides is the analysis' affair."""

from argparse import ArgumentTypeError
from dataclasses import dataclass

#: Seeds at the first looks; each further look has about half as many again.
FIRST_LOOKS = (3, 5, 8, 12)
FURTHER = 1.5
#: The last look has at least so many times the seeds of the one before.
LAST = 1.25
#: The fewest seeds that leave room for a second look.
LEAST_MOST = 4
USUAL_MOST = FIRST_LOOKS[-1]


@dataclass(frozen=True)
class Sequential:
    """``--seeds auto``: seeds are added until every comparison is decided, or until there are so many."""

    most: int = USUAL_MOST

    def looks(self) -> list[int]:
        """Return the numbers of seeds at which the study looks, ascending; the last is ``most``."""
        found = [look for look in FIRST_LOOKS if look * LAST <= self.most]
        while found[-1] >= FIRST_LOOKS[-1] and (further := round(found[-1] * FURTHER)) * LAST <= self.most:
            found.append(further)
        return [*found, self.most]


def parse_seeds(text: str) -> int | Sequential:
    """Read ``--seeds``: a number, "auto", or "auto:MOST".

    Raises: ArgumentTypeError for anything else.
    """
    kind, colon, most = text.partition(":")
    try:
        if kind != "auto":
            return int(text)
        return Sequential(int(most)) if colon else Sequential()
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected a number, auto or auto:MOST") from None
