"""By which rule the best of an arm's searched trials is chosen. Nothing of Optuna is needed to say it: `--help` is quick."""

from dataclasses import dataclass

from mldiv.records.contents import TrialRecord, scored_by

DEFAULT_RULE = "validation_nll"


@dataclass(frozen=True)
class Selection:
    """How the best of an arm's searched trials is chosen: objectives, scores on validation data only, lower is better. With
    more than one, the trial of the Pareto front that is nearest to the ideal point, each objective scaled to the front's
    range."""

    title: str
    objectives: tuple[str, ...]

    def values(self, record: TrialRecord | None, member: str) -> list[float] | None:
        """Return the objectives of a finished trial, of whom the arm is judged by ("pair" or "peers").

        None for any other trial, or where one is not finite.
        """
        if record is None or record.status != "finished":
            return None
        scored = scored_by(member, record.validation)
        found = [[record.validation[name][objective] for name in scored] for objective in self.objectives]
        return None if any(None in values for values in found) else [sum(values) / len(values) for values in found]


SELECTION: dict[str, Selection] = {
    "validation_nll": Selection("lowest validation NLL after the last epoch", ("nll",)),
    "validation_nll_and_ece": Selection(
        "of the Pareto front of validation NLL and ECE after the last epoch, the trial nearest to the ideal point",
        ("nll", "ece"),
    ),
}
