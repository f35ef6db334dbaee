"""The command line that all studies share."""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.formats.label_file import LAYOUT as LABEL_LAYOUT
from mldiv.datasets.sources import DATASETS, layouts
from mldiv.method.networks import MODELS
from mldiv.records import MARGINS
from mldiv.setting import fields
from mldiv.storage import object_store
from mldiv.study import Study
from mldiv.sweep.looks import USUAL_MOST, parse_seeds
from mldiv.sweep.search_space import DEFAULT_RULE, SELECTION
from mldiv.terminal import Parser, hide_secrets

#: Flags by their names of 0.5.0, accepted for one more version.
RENAMED = {
    "--batch": "--open-suggestions",
    "--samples": "--trials",
    "--groups": "--parallel-trials",
    "--store": "--cache",
    "--store-size": "--cache-size",
    "--no-store": "--no-cache",
}

#: Settings that flags of their own decide.
OWN_FLAGS = {
    "seed": "--seeds", "data_root": "--data-root", "train_labels": "--train-labels", "train_labels_hash": "--train-labels",
    "pretrained": "--pretrained", "pretrained_hash": "--pretrained",
}  # fmt: skip
#: How else than by null a setting is told to be none.
NONE = dict.fromkeys(("none", "None"))

#: Environment variable with the place under which every study has its folder, where --out does not say otherwise.
RESULTS = "MLDIV_RESULTS"


def parse_flags(study: Study, argv: Sequence[str] | None) -> Namespace:
    """Return the flags that a study is run with. argparse itself ends the process, with code 2, at an unknown one."""
    parser = Parser(prog=f"studies/{study.name}.py", description=study.question)
    parser.add_argument("--preset", default="auto", help="auto (paper with GPUs, else demo), demo, quick, small or paper")
    parser.add_argument("--data", help=", ".join(DATASETS))
    parser.add_argument("--data-root", metavar="PLACE", help=f"folder of the data, or the file, with: {layouts()}")
    parser.add_argument("--train-labels", metavar="FILE", help=f"other labels to train with: {LABEL_LAYOUT}")
    parser.add_argument(
        "--pretrained", metavar="FILE", help="weights in place of the pretrained network: a state dict, .safetensors, or the "
        "name of torchvision's (ResNet18_Weights.DEFAULT)",
    )  # fmt: skip
    parser.add_argument("--download", action="store_true", help="let torchvision download missing data into --data-root")
    parser.add_argument("--arch", help=f"{', '.join(MODELS)}")
    parser.add_argument("--width", type=float, help="factor of the network's channels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of mldiv/config.py; may be repeated"
    )
    parser.add_argument(
        "--ood",
        help="images of another kind, a list with commas: photographs (default), noise, a data set's name, NAME@PLACE "
        "for one in a place of its own, or none",
    )
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
        help=f"seeds on which each arm's choice is repeated; auto, auto:MOST: what decides, at most {USUAL_MOST}, MOST",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="Optuna trials for each searched arm; 0: defaults as they are")
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
    parser.add_argument(
        "--cache",
        metavar="PLACE",
        help="folder or URL where studies share first stages and pretraining (default: trunks beside --out)",
    )
    parser.add_argument("--cache-size", type=float, default=20.0, metavar="GB", help="size of that place (default 20)")
    parser.add_argument("--no-cache", action="store_true", help="share nothing: train every trial from its very start")
    parser.add_argument(
        "--parallel-trials", type=int, metavar="N", help="most trials at once (default: what the cluster has room for)"
    )
    parser.add_argument("--cpus-per-worker", type=float, metavar="N", help="processors of each worker (default: the preset's)")
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="GPUs of each worker; 0.25: four small networks share one"
    )
    parser.add_argument("--in-process", action="store_true", help="train here, one trial after the other, without Ray")
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS") or "local", help="Ray cluster (default: this machine)"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load own kernels, networks, ... (or a module's name)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    return parser.parse_args(current_names(sys.argv[1:] if argv is None else argv))


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
    out = _place("out", flags.out or object_store.join(os.environ.get(RESULTS, "results"), name))
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
    found = dict(MARGINS)
    for pair in pairs:
        name, _, size = pair.partition("=")
        if name not in MARGINS:
            raise ConfigError(f"--margin {pair}: expected METRIC=SIZE with a metric of {', '.join(MARGINS)}")
        try:
            found[name] = float(size)
        except ValueError:
            raise ConfigError(f"--margin {pair}: {size!r} is no number") from None
        if not 0 < found[name] < math.inf:
            raise ConfigError(f"--margin {pair}: must be greater than 0")
    return found


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``--set NAME=VALUE``: numbers, true, false and null as in JSON, None where a setting may be that,
    anything else a word.

    Raises: ConfigError for what is no such pair, and for what a study or a flag of its own decides.
    """
    found, known = dict[str, Any](), fields(TrialConfig)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair}: expected NAME=VALUE, for instance epochs=30")
        if name in OWN_FLAGS:
            raise ConfigError(f"--set {pair}: use {OWN_FLAGS[name]}")
        if name in found:
            raise ConfigError(f"--set {pair}: {name} is set twice; leave one out")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = NONE.get(value, value) if "None" in str(getattr(known.get(name), "type", "")) else value
    return found
