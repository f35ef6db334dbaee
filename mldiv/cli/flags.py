"""The command line that all studies share, and what it is refused for by itself, before torch is loaded."""

import ast
import importlib.util
import json
import math
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldiv.datasets.files import LABELS, LAYOUTS, layouts
from mldiv.environment.terminal import Parser, hide_secrets
from mldiv.records.contents import MARGINS
from mldiv.settings.setting import ConfigError, fields, nearest, shown
from mldiv.storage import object_store
from mldiv.study import Study
from mldiv.sweep.looks import LEAST_MOST, USUAL_MOST, Sequential, parse_seeds
from mldiv.sweep.selection import DEFAULT_RULE, SELECTION

#: Flags by their names of 0.5.0, accepted for one more version.
RENAMED = {
    "--batch": "--open-suggestions",
    "--samples": "--trials",
    "--groups": "--parallel-trials",
    "--store": "--cache",
    "--store-size": "--cache-size",
    "--no-store": "--no-cache",
}

#: Flags that are counts, and the least that each may be; and the most.
COUNTS = {"seeds": 1, "trials": 0, "open-suggestions": 1, "workers": 1, "parallel-trials": 1, "lanes": 1}
MOST = 100_000
#: The largest --cache-size.
LARGEST_GB = 10**9

#: Flags that name a folder, a file or a cluster.
PLACES = ("out", "cache", "data_root", "train_labels", "pretrained", "address")

#: Settings that flags of their own decide.
OWN_FLAGS = {
    "seed": "--seeds", "data_root": "--data-root", "train_labels": "--train-labels", "train_labels_hash": "--train-labels",
    "pretrained": "--pretrained", "pretrained_hash": "--pretrained",
}  # fmt: skip
#: How else than by null a setting is told to be none.
NONE = dict.fromkeys(("none", "None"))

#: Environment variable with the place under which every study has its folder, where --out does not say otherwise.
RESULTS = "MLDIV_RESULTS"


def parse_flags(study: Study, argv: Sequence[str] | None, prog: str | None = None) -> Namespace:
    """Return the flags that a study is run with, as ``prog``. argparse itself ends the process, with code 2, at an unknown one.

    For the help no torch is loaded: names are read in the sources of their registries.
    """
    presets, recipes = (entries("mldiv.presets", registry) for registry in ("PRESETS", "RECIPES"))
    networks = entries("mldiv.method.networks", "MODELS")
    called = sys.argv[0] if argv is None else f"studies/{study.name}.py"
    parser = Parser(prog=prog or called, description=study.question)
    parser.add_argument("--preset", default="auto", help=f"auto (paper with GPUs, else demo), {_one_of(presets)}")
    parser.add_argument("--data", help=_one_of([*LAYOUTS]))
    parser.add_argument("--data-root", metavar="PLACE", help=f"folder of the data, or the file, with: {layouts()}")
    parser.add_argument("--train-labels", metavar="FILE", help=f"other labels to train with: {LABELS}")
    parser.add_argument(
        "--pretrained", metavar="FILE", help="weights in place of the pretrained network: a state dict, .safetensors, or the "
        "name of torchvision's (ResNet18_Weights.DEFAULT)",
    )  # fmt: skip
    parser.add_argument("--download", action="store_true", help="let torchvision download missing data into --data-root")
    parser.add_argument("--arch", help=f"{_one_of(networks)}; with a recipe of its own: {', '.join(recipes)}")
    parser.add_argument("--width", type=float, help="factor of the network's channels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting (docs/settings.md); repeatable"
    )
    parser.add_argument(
        "--ood",
        help="images of another kind, a list with commas: photographs (default), noise, a data set's name, NAME@PLACE "
        "for one in a place of its own, or none",
    )
    parser.add_argument(
        "--keep-predictions", metavar="WHAT", help="what stays of test predictions: none, top (what tables and figures need) "
        "or full (every class's probability; default)",
    )  # fmt: skip
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="only this arm beside the baseline; repeatable"
    )
    parser.add_argument(
        "--margin", action="append", default=[], metavar="METRIC=SIZE",
        help=f"smallest difference that matters (default {', '.join(f'{name}={size:g}' for name, size in MARGINS.items())})",
    )  # fmt: skip
    parser.add_argument(
        "--seeds",
        type=parse_seeds,
        metavar="N",
        help="seeds on which each arm's choice is repeated (default: the preset's); auto, auto:MOST: until every comparison is "
        f"decided, at most {USUAL_MOST}, MOST",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="Optuna trials of each search; 0: none (default: the preset's)")
    parser.add_argument(
        "--open-suggestions",
        type=int,
        metavar="N",
        help="Optuna trials open at once in each arm's search (default: the study's, mostly 1)",
    )
    parser.add_argument(
        "--select", default=DEFAULT_RULE, metavar="RULE", help=f"how a search is judged: {' or '.join(SELECTION)}"
    )
    parser.add_argument("--stop-early", action="store_true", help="end searched trials early by ASHA, after the switch only")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="DDP processes per trial (default 1)")
    parser.add_argument(
        "--out",
        metavar="PLACE",
        help=f"folder or URL (s3://...) of the results (default: {study.name} in ${RESULTS} or results)",
    )
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument(
        "--cache",
        metavar="PLACE",
        help="folder or URL where studies share first stages and pretraining (default: the folder trunks beside --out)",
    )
    parser.add_argument("--cache-size", type=float, default=20.0, metavar="GB", help="size of that place (default 20)")
    sharing.add_argument("--no-cache", action="store_true", help="share nothing: train every trial from its very start")
    parser.add_argument(
        "--parallel-trials", type=int, metavar="N", help="most trials, or with --lanes groups of them, at once (default: what "
        "the cluster has room for)",
    )  # fmt: skip
    parser.add_argument("--cpus-per-worker", type=float, metavar="N", help="processors of each worker (default: the preset's)")
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="GPUs of each worker; 0.25: four small networks share one"
    )
    parser.add_argument("--in-process", action="store_true", help="train here, one trial after the other, without Ray")
    parser.add_argument(
        "--lanes", type=parse_lanes, default=1, metavar="N", help="most trials, differing in numbers alone, that each "
        "worker group, or this process, trains in one step (default 1); auto: 4 on a GPU, 1 on a processor",
    )  # fmt: skip
    parser.add_argument("--address", help="Ray cluster (default: this machine)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load own kernels, ... (or a module's name); repeatable"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    flags = parser.parse_args(current_names(sys.argv[1:] if argv is None else argv))
    if flags.address is None:
        flags.address = ("" if flags.in_process else os.environ.get("RAY_ADDRESS")) or "local"
    return flags


def entries(module: str, registry: str) -> list[str]:
    """Return the names in a registry, a literal in its module, without the seconds that importing the module takes."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (found,) = (item.value for item in tree.body if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == registry)
    assert isinstance(found, ast.Dict)
    return [ast.literal_eval(key) for key in found.keys if key is not None]


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def parse_lanes(text: str) -> int | None:
    """Read ``--lanes``: a number, or "auto", which is None.

    Raises: ArgumentTypeError for anything else.
    """
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected a number or auto") from None


def check_flags(flags: Namespace) -> None:
    """Refuse flags that cannot be what they say, or that contradict each other."""
    check_numbers(flags)
    _check_ways(flags)


def check_numbers(flags: Namespace) -> None:
    """Refuse numbers and shares that cannot be, and places without a name, which nobody can mean (an empty variable's)."""
    _check_counts(flags)
    _check_shares(flags)
    for name in PLACES:
        if getattr(flags, name, None) == "":
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} is empty: name a place, or leave the flag out")


def _check_counts(flags: Namespace) -> None:
    """Refuse numbers of things that are too small, or beyond all that can be."""
    for flag, least in COUNTS.items():
        value = getattr(flags, flag.replace("-", "_"), None)
        if isinstance(value, Sequential):
            flag, value, least = f"{flag} auto, at most", value.most, LEAST_MOST
        if value is not None and value < least:
            raise ConfigError(f"--{flag} {value}: must be at least {least}")
        if value is not None and value > MOST:
            raise ConfigError(f"--{flag} {shown(value)}: must be at most {MOST:,}")
    if not 0 < flags.cache_size <= LARGEST_GB:
        raise ConfigError(f"--cache-size {flags.cache_size:g}: must be greater than zero, and at most {LARGEST_GB:,}")


def _check_ways(flags: Namespace) -> None:
    """Refuse a way of searching that is unknown, and ways of training that do not go together."""
    if flags.select not in SELECTION:
        raise ConfigError(f"--select {flags.select!r} is unknown{nearest(flags.select, SELECTION)}")
    needs_ray = {
        "workers": flags.workers > 1,
        "parallel-trials": flags.parallel_trials is not None,
        "stop-early": flags.stop_early,
        "cpus-per-worker": flags.cpus_per_worker is not None,
        "gpus-per-worker": flags.gpus_per_worker is not None,
        "address": flags.address != "local",
    }
    for flag, given in needs_ray.items():
        if given and flags.in_process:
            raise ConfigError(f"--{flag} needs Ray: leave it out, or leave out --in-process (in Python: in_process=False)")
    if flags.lanes != 1 and flags.workers > 1:
        raise ConfigError("--lanes with --workers: trials that are stepped together have one worker; leave one of the two out")


def _check_shares(flags: Namespace) -> None:
    """Refuse shares of a machine that Ray cannot give."""
    cpus, gpus = flags.cpus_per_worker, flags.gpus_per_worker
    if cpus is not None and not 0 < cpus < math.inf:
        raise ConfigError(f"--cpus-per-worker {cpus:g}: must be greater than zero, and finite")
    if gpus is not None and (not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1)):
        raise ConfigError(f"--gpus-per-worker {gpus:g}: must be a fraction of one, or a whole number")
    if flags.workers > 1 and gpus:
        from mldiv.cluster.nodes import Resources  # with torch

        Resources(flags.workers, cpus or 1.0, gpus)


def current_names(argv: Sequence[str]) -> list[str]:
    """Return the command line with old names of flags replaced; each is said once, on standard error."""
    names = [word.partition("=") for word in argv]
    for old in dict.fromkeys(name for name, _, _ in names if name in RENAMED):
        print(f"{old} is called {RENAMED[old]} now; the old name ends with the next version", file=sys.stderr)
    return [RENAMED.get(name, name) + equals + value for name, equals, value in names]


def places(flags: Namespace, name: str) -> tuple[object_store.Location, object_store.Location]:
    """Return the places of the results of the study of this ``name``, and of the first stages that studies share.

    Raises: ConfigError for a URL that is no storage.
    """
    out = _place("out", flags.out or object_store.join(os.environ.get(RESULTS) or "results", name))
    return out, _place("cache", flags.cache or object_store.join(object_store.parent(out), "trunks"))


def _place(flag: str, given: str) -> object_store.Location:
    """Return a folder's full path, or a URL that pyarrow knows."""
    if not object_store.is_url(given):
        return str(full_path(f"--{flag}", given))
    try:
        object_store.check_no_secret(given)
    except ValueError as error:
        raise ConfigError(f"--{flag} {error}") from None
    scheme, _, path = given.partition("?")[0].partition("://")
    if flag == "out" and scheme in ("s3", "gs", "gcs") and "/" not in path.strip("/"):
        raise ConfigError(f"--out {given}: name a folder in a bucket, as in {scheme}://{path.strip('/') or 'bucket'}/results")
    try:
        object_store.Remote(given)
    except ValueError as error:
        raise ConfigError(f"--{flag} {error}") from None
    return given


def full_path(flag: str, given: str) -> Path:
    """Return a path from the root on, links followed.

    Raises: ConfigError, naming the flag, for a URL, a home that nobody has, links that go in a circle, and what is no path.
    """
    if object_store.is_url(given):
        raise ConfigError(f"{flag} {hide_secrets(given)}: a URL, where a folder of this machine is expected")
    try:
        path = Path(given).expanduser().resolve()
        str(path).encode()  # of such names alone pyarrow can write files
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{flag} {given}: no path ({error})") from None


def parse_margins(pairs: Sequence[str]) -> dict[str, float]:
    """Return by metric the smallest difference that matters: MARGINS, and what ``--margin METRIC=SIZE`` says instead.

    Raises: ConfigError for what is no such pair.
    """
    found, given = dict(MARGINS), set[str]()
    for pair in pairs:
        name, equals, size = pair.partition("=")
        if not equals or name not in MARGINS:
            raise ConfigError(f"--margin {pair}: expected METRIC=SIZE with a metric of {', '.join(MARGINS)}")
        if name in given:
            raise ConfigError(f"--margin {pair}: {name} has two; leave one out")
        given.add(name)
        try:
            found[name] = float(size)
        except ValueError:
            raise ConfigError(f"--margin {pair}: {size!r} is no number") from None
        if not 0 < found[name] < math.inf:
            raise ConfigError(f"--margin {pair}: must be greater than 0")
    return found


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``--set NAME=VALUE``: numbers, true, false and null as in JSON where a setting is no text, None
    where it may be that, anything else a word.

    Raises: ConfigError for what is no such pair, and for what a study or a flag of its own decides.
    """
    from mldiv.config import TrialConfig  # with torch: seconds, for which --help does not wait

    found, known = dict[str, Any](), fields(TrialConfig)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair}: expected NAME=VALUE, for instance epochs=30")
        if name in OWN_FLAGS:
            raise ConfigError(f"--set {pair}: use {OWN_FLAGS[name]}")
        if name in found:
            raise ConfigError(f"--set {pair}: {name} is set twice; leave one out")
        found[name] = _value(getattr(known.get(name), "type", None), value)
    return found


def _value(kind: Any, text: str) -> Any:
    """A setting's value as a command line writes it; kind: its type, None where it is unknown."""
    if kind is str and not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NONE.get(text, text) if "None" in str(kind) else text
