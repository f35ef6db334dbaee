"""The part of the command `mldiv` that exports a study's records to the tools that others look at runs with."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from mldiv.environment.terminal import Parser, plain
from mldiv.export import runs
from mldiv.records.checked_files import RecordError, read_json
from mldiv.records.contents import trial_id
from mldiv.records.study_files import write_json
from mldiv.storage.object_store import is_url, name, working_copy

#: By tool, the module that writes for it; each is imported when it is asked for.
TOOLS = {tool: f"mldiv.export.{tool}" for tool in ("tensorboard", "mlflow", "wandb")}
#: In the folder that is written to: by study, a hash of its place, in the order of their first exports, the trials of the last.
NOTED = "mldiv-export.json"


def main(argv: Sequence[str], description: str) -> int:
    """Export what the flags ask for; the exit code is 2 where it cannot be done. description: for its help."""
    parser = Parser(prog="mldiv export", description=description)
    parser.add_argument("place", metavar="DIR", help="a study's output folder or URL")
    parser.add_argument("--to", required=True, choices=TOOLS, help="the tool; exporting again changes only what has changed")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: export/TOOL in DIR; of a URL: here)")
    try:
        print(plain(export(parser.parse_args(argv))))
    except (RecordError, OSError) as error:
        print(plain(f"mldiv: {error}"), file=sys.stderr)
        return 2
    return 0


def export(flags: Namespace) -> str:
    """Export what the flags say; return what to print: how much, where, how to look at it.

    Raises: RecordError where there is no study, or the tool is not installed; OSError.
    """
    try:
        tool = import_module(TOOLS[flags.to])
    except ImportError as error:
        raise RecordError(f"{flags.to} is not installed ({error}): python -m pip install {flags.to}") from None
    with working_copy(flags.place, fetch=False) as copy:
        copy.pull_study(("trial.json", "metrics.jsonl"))
        study = runs.read(copy.local)
        place = Path(f"{name(flags.place)}-export") if is_url(flags.place) else copy.local / "export"
        out = Path(flags.out) if flags.out else place / flags.to
        noted, key = _noted(out), trial_id({"study": flags.place if is_url(flags.place) else str(Path(flags.place).resolve())})
        kept = study.trials.union(*(trials for name, trials in noted.items() if name != key))
        run = "study" if not flags.out or next(iter(noted), key) == key else f"study-{key}"
        how = tool.export(replace(study, run=run, gone=frozenset(noted.get(key, ())) - kept), out)
        write_json(out / NOTED, noted | {key: sorted(study.trials)})
    said = [f"{len(study.runs)} runs of {study.header.name} are in {out}; to look at them: {how}"]
    said += [f"left out: {problem}" for problem in study.problems]
    if not study.files:
        said.append("no table and no figures: `python -m analysis DIR` makes them, then export again")
    return "\n".join(said)


def _noted(out: Path) -> dict[str, list[str]]:
    """Return what earlier exports into a folder noted; nothing where there were none, or that cannot be read."""
    try:
        return read_json(out / NOTED)
    except RecordError:
        return {}
