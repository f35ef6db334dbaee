"""Kernels' own parameters as settings, named kernel_NAME: default, range and search stand in the kernel's signature alone.

Those of the package's kernels are fields of `TrialConfig`; others, of plug-ins, are kept together in its field `kernel_own`.
"""

import json
from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from mldiv.method.kernels import KERNELS, Range, kernel_parameters, kernel_ranges
from mldiv.settings.setting import ConfigError, Log, Steps, diversity_code, make_check, shown

#: What a kernel's parameter is called among the settings.
PREFIX = "kernel_"

Value = float | int


def parameter(name: str) -> Any:
    """Declare the setting of a parameter as the first kernel that gives it a range does."""
    kernel = next(kernel for kernel in KERNELS if name in kernel_ranges(kernel))
    default, bounds = kernel_parameters(kernel)[name], kernel_ranges(kernel)[name]
    whole: dict[str, Any] = {} if bounds.step is None else {"multiple_of": bounds.step}
    return diversity_code(default, bounds.help, ge=bounds.low, le=bounds.high, search=_search(bounds), why=bounds.why, **whole)


def _search(bounds: Range) -> Log | Steps:
    low, high = bounds.searched or (bounds.low, bounds.high)
    return Log(low, high) if bounds.step is None else Steps(int(low), int(high), bounds.step)


def parameters() -> dict[str, Field]:
    """Return the settings of all kernels' parameters that have a range, by their names as settings."""
    found: dict[str, Field] = {}
    for kernel in KERNELS:
        for name, bounds in kernel_ranges(kernel).items():
            if PREFIX + name not in found:
                item = found[PREFIX + name] = parameter(name)
                item.name, item.type = PREFIX + name, float if bounds.step is None else int
    return found


def defaults_beside_fields(config: Any) -> dict[str, Any]:
    """Return the defaults of the parameters that are no fields of a configuration, by setting: those of plug-ins' kernels."""
    return {name: item.default for name, item in parameters().items() if name not in vars(config)}


def owners(name: str) -> list[str]:
    """Return the kernels whose own parameter a setting is."""
    return [kernel for kernel in KERNELS if name.startswith(PREFIX) and name.removeprefix(PREFIX) in kernel_parameters(kernel)]


def check_kernel(kernel: str) -> None:
    """Refuse a kernel whose parameter another kernel has with another default or range: a name means one thing.

    Raises: ConfigError.
    """
    own = kernel_parameters(kernel)
    known = parameters() if own else {}
    for name, default in own.items():
        first = known.get(PREFIX + name)
        if first is None:
            continue
        declared = kernel_ranges(kernel).get(name)
        owner = next(other for other in KERNELS if name in kernel_ranges(other))
        if default != first.default or declared not in (None, kernel_ranges(owner)[name]):
            raise ConfigError(
                f"kernel = {kernel!r}: its parameter {name!r} has another default or range than that of {owner!r}; choose "
                "another name, or take its range over"
            )


def read(own: str) -> dict[str, Value]:
    """Return the values that `kernel_own` holds, by setting.

    Raises: ConfigError for what is no such text, no kernel's parameter, or out of its range.
    """
    pairs = [pair.partition("=") for pair in own.split(",") if own]
    try:
        values = {PREFIX + name: json.loads(value) for name, _, value in pairs}
    except ValueError:
        raise ConfigError(f"kernel_own = {shown(own)}: expected parameters with numbers, such as tail=2.0,shape=3") from None
    known = parameters()
    if unknown := [name for name in values if name not in known]:
        raise ConfigError(f"kernel_own = {shown(own)}: no kernel here has a parameter {unknown[0].removeprefix(PREFIX)!r}")
    return checked(values)


def checked(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return values of kernels' parameters, 1 as 1.0 where a number is expected.

    Raises: ConfigError for one of a wrong type or out of its range.
    """
    known = parameters()
    return make_check({name: known[name] for name in values})(values)


def written(values: Mapping[str, Any]) -> str:
    """Return `kernel_own` for these values: what is at its default is left out, so that it changes no identity.

    Raises: as `checked`.
    """
    known = parameters()
    kept = {name: value for name, value in sorted(checked(values).items()) if value != known[name].default}
    return ",".join(f"{name.removeprefix(PREFIX)}={value!r}" for name, value in kept.items())
