"""Run a study from Python, as its command does."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mldiv import study
from mldiv.cli.execute import execute
from mldiv.cli.flags import check_flags, parse_flags
from mldiv.cli.folder import open_folder
from mldiv.cli.main import describe
from mldiv.cli.run import prepare
from mldiv.cli.screen.display import Display
from mldiv.config import ConfigError, nearest
from mldiv.interface.results import Results, analysis, results
from mldiv.interface.torch_settings import torch_settings
from mldiv.plugins.loading import load_named
from mldiv.settings.setting import shown


class Study(study.Study):
    """A question and its arms (`mldiv.study.Study` has the fields), which can be run from Python."""

    def run(self, out: str | os.PathLike[str] | None = None, *, in_process: bool = True, **flags: Any) -> Results | None:
        """Train what the study's folder does not hold yet, write its tables and report there, return its results.

        out: the folder, or an address on an object store (default: as of the command). in_process: one trial after the other in
        this process; False: on Ray. flags: those of a study's command by their names, as preset="demo", seeds=3,
        set={"epochs": 30}, arm=["both"], plugin=["own.py"]. dry_run=True prints the plan, writes nothing and returns None.

        Trials that failed are in the results with their reason; the same call tries them again. Progress is told on standard
        error.

        Raises: ConfigError, DataError, RecordError, PluginError, OSError before any work; KeyboardInterrupt, after which the
        same call goes on.
        """
        given = parse(self, flags | {"out": None if out is None else os.fspath(out), "in_process": in_process})
        build = analysis("build")
        with torch_settings(1):
            load_named(given.plugin)
            run = prepare(self, given)
            with open_folder(run) as (run, folder), Display(self.name) as display:
                if given.dry_run:
                    describe(run, folder, display)
                    return None
                with contextlib.redirect_stdout(io.StringIO()):
                    code = execute(run, folder, build.build, display)
        if code == 130:
            raise KeyboardInterrupt
        return results(run.place)


def parse(asked: study.Study, flags: Mapping[str, Any]) -> Any:
    """Return a study's flags as its command line gives them.

    Raises: ConfigError for one that there is not, and for what its command line is refused for by itself.
    """
    known = vars(parse_flags(asked, []))
    for name in flags:
        if name not in known:
            raise ConfigError(f"run({name}=...): no flag is called so{nearest(name, known)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = parse_flags(asked, [word for name, value in flags.items() for word in _words(name, value)])
    except SystemExit:
        raise ConfigError(f"run(...): {said.getvalue().rpartition('error: ')[2].strip()}") from None
    check_flags(found)
    return found


def _words(name: str, value: Any) -> Iterator[str]:
    """A flag's words on a command line."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        yield flag
    elif isinstance(value, Mapping):
        yield from (f"{flag}={key}={json.dumps(item, default=_plain)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from (f"{flag}={item}" for item in value)
    elif value is not None and value is not False:  # 0 is a value
        yield f"{flag}={value}"


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's. Raises: ConfigError for what no setting can be."""
    if isinstance(value, np.generic):
        return value.item()
    raise ConfigError(f"run(set=...): {shown(value)} is no value of a setting: expected a number, a word, True, False or None")
