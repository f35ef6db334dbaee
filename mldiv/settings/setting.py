"""How a setting declares itself: default, type, range or choices, what it cannot change, how it is searched, a line of help."""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Protocol

import pydantic
from pydantic_core import PydanticCustomError

#: Parts of a trial that a setting may have no influence on. What a setting does not name it is taken to change: one that is
#: declared carelessly costs time and shares nothing wrongly.
TRIAL = "trial"  #: its numbers, and so its identity
FIRST_STAGE = "first stage"  #: what comes before the switch
PRETRAINING = "pretraining"  #: the deterministic network; what the data are is known there by their fingerprint
STEP = "step"  #: the code of a compiled step, which takes the setting as a tensor or does not see it
FIRST_STAGE_STEP = "first stage's step"  #: the code of a compiled step before the switch

#: No value: a setting that is part of every identity.
ALWAYS = object()

#: How much of a value a message shows.
LONGEST_SHOWN_CHARACTERS = 80


class Configuration(Protocol):
    """A dataclass each of whose fields is declared by `setting`; `TrialConfig` above all."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


class Suggesting(Protocol):
    """What a search asks of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float:
        """Suggest a number between two ends."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ...) -> int:
        """Suggest a whole number between two ends, both included."""

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        """Suggest one of the choices."""


#: How a setting is suggested: (its name, an Optuna trial, the configuration that it changes) -> value.
Search = Callable[[str, Suggesting, Any], float | int | str]


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, why, and what would do."""


def setting(
    default: Any, help: str, *, choices: Collection[str] | None = None, why: str = "", spares: tuple[str, ...] = (),
    search: Search | None = None, before: Any = ALWAYS, **bounds: float,
) -> Any:  # fmt: skip
    """Declare a field of `TrialConfig`.

    choices: of a word, a registry or a tuple; bounds: gt, ge, lt, le or multiple_of, as pydantic names them; why: what is wrong
    beyond them; spares: parts that the setting has no influence on; before: of a setting added after results were stored,
    the value by which trials were trained until then. It is left out of every identity: they keep theirs, whatever the
    default becomes.
    """
    metadata = {
        "help": help, "choices": choices, "why": why, "spares": spares, "search": search, "before": before, "bounds": bounds,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


#: Declares a setting by which stage two chooses its code.
diversity_code = partial(setting, spares=(FIRST_STAGE, PRETRAINING, FIRST_STAGE_STEP))


@dataclasses.dataclass(frozen=True)
class Log:
    """A search between two ends on a log scale, or from the configuration's own value where that lies beyond them.

    Raises: ConfigError for ends that are none.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ConfigError(f"{self}: expected 0 < low < high")

    def __call__(self, name: str, trial: Suggesting, config: Configuration) -> float:
        own = _positive(name, config)
        return trial.suggest_float(name, min(self.low, own), max(self.high, own), log=True)


@dataclasses.dataclass(frozen=True)
class Around:
    """A search on a log scale around the configuration's own value, from a ``down``-th to ``up`` times it."""

    down: float
    up: float

    def __call__(self, name: str, trial: Suggesting, config: Configuration) -> float:
        own = _positive(name, config)
        return trial.suggest_float(name, own / self.down, own * self.up, log=True)


@dataclasses.dataclass(frozen=True)
class Steps:
    """A search over whole numbers between two ends, both included, or from the configuration's own beyond them.

    Raises: ConfigError for ends that are none.
    """

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if not (self.low <= self.high and self.step >= 1):
            raise ConfigError(f"{self}: expected low <= high, and a step of at least 1")

    def __call__(self, name: str, trial: Suggesting, config: Configuration) -> int:
        own = getattr(config, name)
        return trial.suggest_int(name, min(self.low, own), max(self.high, own), step=self.step)


def _positive(name: str, config: Configuration) -> float:
    """Return the configuration's own value, at which a search on a log scale begins.

    Raises: ConfigError where it is not above 0.
    """
    if (own := getattr(config, name)) > 0:
        return own
    raise ConfigError(
        f"{name} = {shown(own)}: a search on a log scale begins at this value, which must be greater than zero: set it (--set "
        f"{name}=..., or the study's settings), or give the study another range for it"
    )


def anything(name: str, trial: Suggesting, config: Configuration) -> str:
    """Suggest all of its choices."""
    return trial.suggest_categorical(name, list(fields(type(config))[name].metadata["choices"]))


def fields(cls: type[Configuration]) -> dict[str, dataclasses.Field]:
    """Return the settings of a configuration's class by name."""
    return {item.name: item for item in dataclasses.fields(cls)}


def sparing(cls: type[Configuration], part: str) -> frozenset[str]:
    """Return the names of the settings without influence on a part."""
    return frozenset(name for name, item in fields(cls).items() if part in item.metadata["spares"])


def identity(config: Configuration, part: str) -> dict[str, Any]:
    """Return the settings that can change a part, by name: what its identity is made of."""
    spared = sparing(type(config), part) | sparing(type(config), TRIAL)
    return {
        name: getattr(config, name)
        for name, item in fields(type(config)).items()
        if name not in spared and (item.metadata["before"] is ALWAYS or getattr(config, name) != item.metadata["before"])
    }


def as_before(cls: type[Configuration]) -> dict[str, Any]:
    """Return the values that a record stored without a setting was trained with, by setting."""
    values = {name: (item.metadata["before"], item.default) for name, item in fields(cls).items()}
    return {name: default if before is ALWAYS else before for name, (before, default) in values.items()}


def make_check(settings: Mapping[str, dataclasses.Field]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Make a function that returns the values of these settings, 1 as 1.0 where a float is expected.

    It raises ConfigError for the first value of a wrong type, out of its range or not among its choices.
    """
    strict = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    model = pydantic.create_model("settings", __config__=strict, **{name: _typed(item) for name, item in settings.items()})

    def check(values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(model.model_validate(dict(values)))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise ConfigError(_message(settings[name], values[name], first)) from None

    return check


def _typed(item: dataclasses.Field) -> Any:
    kind: Any = item.type
    if item.metadata["choices"] is not None:
        kind = Annotated[kind, pydantic.AfterValidator(_among(item.metadata["choices"]))]
    return kind, pydantic.Field(**item.metadata["bounds"])


def _among(choices: Collection[str]) -> Callable[[str], str]:
    def known(value: str) -> str:
        if value not in choices:
            said = nearest(value, choices)
            if isinstance(choices, dict) and "known" in said:
                said += "; of your own: name its plug-in, --plugin FILE or plugins=[FILE]"
            raise PydanticCustomError("unknown", "is unknown{nearest}", {"nearest": said})
        return value

    return known


def _message(item: dataclasses.Field, value: Any, error: Any) -> str:
    kind, bounds, context = str(getattr(item.type, "__name__", item.type)), item.metadata["bounds"], error.get("ctx", {})
    if error["type"].endswith("_type"):
        return f"{item.name} = {shown(value)}: expected {kind}"
    if error["type"] == "unknown":
        return f"{item.name} = {shown(value)} {error['msg']}"
    said = {
        "finite_number": lambda: "must be a finite number",
        "greater_than": lambda: f"must be greater than {context['gt'] or 'zero'}",
        "greater_than_equal": lambda: f"must be at least {number(context['ge'])}" if context["ge"] else "must not be negative",
        "less_than": lambda: f"must be less than {number(context['lt'])}",
        "less_than_equal": lambda: f"must be at most {number(context['le'])}",
        "multiple_of": lambda: f"must be a multiple of {number(context['multiple_of'])}",
    }[error["type"]]()
    if "gt" in bounds and "lt" in bounds:
        said = f"must lie between {bounds['gt']:g} and {bounds['lt']:g}"
    if "None" in kind:
        said += ", or None for all"
    why = item.metadata["why"] if not error["type"].startswith("less") else ""
    return f"{item.name} = {shown(value)}: {said}" + (f" ({why})" if why else "")


def number(value: float) -> str:
    """Return a bound as a message shows it: 1,000,000 or 1e-06."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def shown(value: Any) -> str:
    """Return the value as a message shows it: its middle is left out where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN_CHARACTERS else f"{text[:50]}...{text[-10:]}"


def nearest(name: object, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" with the closest known name, or the list of all where none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.55)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
