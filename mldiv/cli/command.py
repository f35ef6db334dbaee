"""The command `mldiv`: what concerns no single study."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mldiv.export import command as export
from mldiv.plugins import loading
from mldiv.plugins.contracts import faults
from mldiv.plugins.loading import PluginError
from mldiv.record_files import RecordError
from mldiv.terminal import Parser, plain


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code: 0 well, 1 a plug-in has faults, 2 it cannot be done."""
    parser = Parser(prog="mldiv", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check-plugin", help="say what a plug-in's entries do not keep of what is asked of their kind")
    check.add_argument("plugin", metavar="FILE", help="a file, or the dotted name of a module")
    export.add_flags(commands)
    flags = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        if flags.command == "export":
            print(plain(export.export(flags)))
            return 0
        return check_plugin(flags.plugin)
    except (PluginError, RecordError, OSError) as error:
        print(plain(f"mldiv: {error}"), file=sys.stderr)
        return 2


def check_plugin(given: str) -> int:
    """Load a plug-in, print a line for each of its entries; the exit code is 1 where one has faults, or there is none.

    Raises: PluginError.
    """
    plugin = loading.find(given)
    loading.load([plugin])
    found, wrong = loading.entered(plugin.name), 0
    for kind, names in found.items():
        for name in names:
            problems = faults(kind, name)
            wrong += bool(problems)
            print(plain(f"{kind} {name}: {'; '.join(problems) or 'ok'}"))
    if not found:
        print(plain(f"{Path(given).name} enters nothing: {', '.join(name for _, name in loading.REGISTRIES.values())}"))
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    raise SystemExit(main())
