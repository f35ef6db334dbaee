"""Writes docs/settings.md from the settings' own declarations: ``python -m mldiv.cli.settings_page > docs/settings.md``."""

import dataclasses
from typing import Any

from mldiv.config import TrialConfig
from mldiv.settings.setting import FIRST_STAGE, PRETRAINING, TRIAL, Around, Log, Steps, fields, number

HEAD = """# Settings

Every setting of a trial; `--set NAME=VALUE` changes it in a study, `TrialConfig(NAME=VALUE)` in Python. This page is made from
`mldiv/config.py` by `python -m mldiv.cli.settings_page > docs/settings.md`; a test compares the two. Defaults are those of
`TrialConfig`; presets change some ([studies](studies.md)). "Acts on": *all* also changes pretraining; *peers* all of a pair's
training; *stage two* only what follows the switch, so that trials that differ in it share their first stage. "Searched" is the
range of a study that searches the setting, on a log scale unless it is a whole number; a value set beyond it widens it.
[stated]: the paper says so; [chosen]: the paper is silent; measured: compared with others in [RESULTS.md](../RESULTS.md).

| setting | default | values | what it is | acts on | searched |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page's text."""
    return HEAD + "".join(f"| {' | '.join(_row(item))} |\n" for item in fields(TrialConfig).values())


def _row(item: dataclasses.Field) -> tuple[str, ...]:
    default = (
        "none" if item.default is None else str(item.default).lower() if isinstance(item.default, bool) else str(item.default)
    )
    return f"`{item.name}`", default, _values(item), item.metadata["help"], _acts_on(item), _searched(item)


def _values(item: dataclasses.Field) -> str:
    if item.metadata["choices"] is not None:
        return ", ".join(item.metadata["choices"])
    kinds = {"int": "whole number", "float": "number", "bool": "true, false", "str": "text"}
    kind, *none = str(getattr(item.type, "__name__", item.type)).split(" | ")
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}
    bounds = [f"{signs[name]} {number(value)}" for name, value in item.metadata["bounds"].items()]
    return ", ".join([kinds[kind], *bounds, *(["or none"] if none else [])])


def _acts_on(item: dataclasses.Field) -> str:
    spares = item.metadata["spares"]
    if TRIAL in spares:
        return "no number"
    return "stage two" if FIRST_STAGE in spares else "peers" if PRETRAINING in spares else "all"


def _searched(item: dataclasses.Field) -> str:
    search: Any = item.metadata["search"]
    if search is None:
        return ""
    if isinstance(search, Log | Steps):
        return " to ".join(f"{end:g}" for end in (search.low, search.high))
    if isinstance(search, Around):
        return f"from 1/{search.down:g} to {search.up:g} times the value set"
    return search.__doc__.removeprefix("Suggest ").split(".")[0]


if __name__ == "__main__":
    print(page(), end="")
