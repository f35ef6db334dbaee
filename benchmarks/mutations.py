"""Do the tests notice faults? Each of those in mutants.py is planted alone, and the tests are run:

    python benchmarks/mutations.py [--list] [--only N ...] [--nearest-only] [--state FILE] [--out benchmarks/mutations.md]

The checkout's files are copied to a temporary folder and changed there, so nobody is disturbed. Of the tests, those most
likely to see a fault run first, up to the first that fails; when none does, the whole default run, then the slow tests in the
same order. A test counts as failing because of the fault if it passes, run alone, without it; otherwise it is passed over and
the run repeated without it. A fault that cannot be imported, or stops tests from being collected, is no catch and is named.

What has been tried is kept in a state file after every fault: the same command goes on where it was cut.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutants import FAULTS, Fault
from timing import caption, table

from mldiv.environment.checkout import commit

ROOT = Path(__file__).resolve().parent.parent

#: What must work in spite of a fault; it prints where the code comes from.
IMPORTS = "import mldiv.method.pair, mldiv.study, analysis.build; print(mldiv.__file__)"

#: As `make test` has it.
PARALLEL = ("--numprocesses", "auto", "--dist", "loadfile")

#: When a run of tests counts as hanging, which is a way of noticing.
LONGEST_SECONDS = 3 * 3600
HANGS = "the run hangs"

#: A test's id in pytest's summary. Files that could not be collected stand there too, without a test's name.
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - .*)?$", re.MULTILINE)

#: What pytest ends with when all tests passed, when a test that was named does not exist, and when there was none to run.
PASSED, UNKNOWN, NONE = 0, 4, 5

Results = dict[str, dict[str, Any]]


class Unfair(Exception):
    """A fault that stops the tests from being run at all says nothing of the tests."""


def copy_of(root: Path, folder: Path) -> Path:
    """The checkout's files that git tracks or does not ignore, as they are now, in ``folder``."""
    ask = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (root / name).is_file():  # one deleted since the last commit is not
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def check(root: Path, faults: tuple[Fault, ...]) -> None:
    """Ends the program, naming every fault whose text is not exactly once in its file, or whose nearest tests are not there."""
    wrong = []
    for number, fault in enumerate(faults, 1):
        path = root / fault.path
        count = path.read_text().count(fault.old) if path.exists() else 0
        if count != 1:
            wrong.append(f"{number}: {fault.path} holds {fault.old!r} {count} times")
        wrong += [f"{number}: there is no {name}" for name in fault.nearest if not (root / name).exists()]
    if wrong:
        sys.exit("\n".join(["Faults that do not fit the code:", *wrong]))


@contextlib.contextmanager
def planted(copy: Path, fault: Fault) -> Iterator[None]:
    """The copy with the fault; afterwards without."""
    path = copy / fault.path
    sound = path.read_text()
    if sound.count(fault.old) != 1:
        raise RuntimeError(f"{path}: {fault.old!r} is not there exactly once")
    path.write_text(sound.replace(fault.old, fault.new))
    try:
        yield
    finally:
        path.write_text(sound)


def python(copy: Path, *arguments: str) -> tuple[int | None, str]:
    """Python's exit code in the copy, None if it did not end in time, and what it wrote."""
    paths = [str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A byte-code file is known by its source's second and size: a fault of the same size could be missed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=copy, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        code = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(LONGEST_SECONDS)
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return code, output.read()


def failing(copy: Path, arguments: list[str], fine: tuple[int, ...] = (PASSED, NONE)) -> str | None:
    """The first test that fails in such a run; none does where pytest ends with one of the codes that are ``fine``.

    Raises: Unfair when tests could not be collected.
    """
    code, said = python(copy, "-m", "pytest", "-x", "-q", *arguments)
    if code is None:
        return HANGS
    if code in fine:
        return None
    found = FAILURE.search(said.rpartition("short test summary info")[2])
    if found is None:
        raise Unfair(f"pytest ended with {code}: {' '.join(said.split()[-40:])}")
    return found[1]


def runs(fault: Fault, nearest_only: bool) -> Iterator[tuple[str, list[str]]]:
    """What is run one after the other until a test fails: the run it is part of, and pytest's arguments."""
    ray = "ray and " * fault.ray
    yield "default", [*fault.nearest, "-m", f"{ray}not slow"]
    if nearest_only:
        return
    yield "default", ["-m", "not slow and not ray", *PARALLEL]
    yield "default", ["-m", "ray and not slow"]
    yield "whole", [*fault.nearest, "-m", f"{ray}slow"]
    yield "whole", ["-m", "slow and not ray", *PARALLEL]
    yield "whole", ["-m", "slow and ray"]


def catch(copy: Path, fault: Fault, arguments: list[str]) -> str | None:
    """The first test of the run that fails with the fault and passes without it, or is not there without it: one that has a
    case for each entry of a list, and the fault added an entry."""
    passed_over: list[str] = []
    while True:
        with planted(copy, fault):
            test = failing(copy, [*arguments, *(f"--deselect={name}" for name in passed_over)])
        if test in (None, HANGS) or failing(copy, [test], (PASSED, UNKNOWN)) is None:
            return test
        print(f"   {test} fails without the fault too", flush=True)
        passed_over.append(test)


def attempt(copy: Path, fault: Fault, nearest_only: bool) -> dict[str, Any]:
    """Which run catches the fault, and by which test."""
    began = time.monotonic()
    result: dict[str, Any] = {"caught": None, "test": None, "unfair": None, "nearest_only": nearest_only}
    try:
        with planted(copy, fault):
            code, said = python(copy, "-c", IMPORTS)
        if code:
            raise Unfair(f"cannot be imported: {said.strip().splitlines()[-1]}")
        for run, arguments in runs(fault, nearest_only):
            if test := catch(copy, fault, arguments):
                result |= {"caught": run, "test": test}
                break
    except Unfair as reason:
        result["unfair"] = str(reason)
    return result | {"seconds": time.monotonic() - began}


def identity(fault: Fault) -> str:
    """Results are kept under this: of a changed fault there is none."""
    return hashlib.sha256("\0".join((fault.path, fault.old, fault.new)).encode()).hexdigest()[:16]


def row(number: int, fault: Fault, result: dict[str, Any] | None) -> list[str]:
    cells = [str(number), fault.area, f"`{fault.path}`", fault.words]
    if result is None:
        return [*cells, "not tried", "not tried", ""]
    test, missed = f"`{result['test']}`", ["not by the nearest", ""] if result["nearest_only"] else ["no", "no"]
    caught = {"default": [test, "yes"], "whole": ["no", test]}.get(result["caught"], missed)
    if result["unfair"]:
        caught = ["unfair", result["unfair"]]
    return [*cells, *(cell.replace("|", "\\|") for cell in caught), f"{result['seconds']:.0f}"]


def report(results: Results) -> str:
    """mutations.md."""
    found = [results.get(identity(fault)) for fault in FAULTS]
    tried = [result for result in found if result is not None]
    caught = [result["caught"] for result in tried]
    half = sum(result["nearest_only"] and not result["caught"] for result in tried)
    met = f" ({half} met their nearest tests only)" if half else ""
    commits = " and ".join(dict.fromkeys(result["commit"] for result in tried))
    what = (
        f"Faults planted one at a time, at commit {commits}; of {len(tried)} tried, tests of the default run (`make test`) "
        f"catch {caught.count('default')}, those of the whole run (`make test-all`) "
        f"{caught.count('default') + caught.count('whole')}{met}. The test named is the first that failed, and passes without "
        "the fault. Seconds are those until then, of a machine that is not otherwise idle."
    )
    rows = [row(number, fault, result) for number, (fault, result) in enumerate(zip(FAULTS, found, strict=True), 1)]
    head = ("", "area", "file", "what is broken", "default run", "whole run", "seconds")
    return f"# Planted faults\n\n{caption(what, os.cpu_count() or 1, ('pytest', 'ray'))}\n\n{table(head, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the faults and plant none")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these faults alone, tried anew")
    parser.add_argument("--nearest-only", action="store_true", help="run no more than each fault's nearest tests")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "mldiv-mutations.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    flags = parser.parse_args()
    check(ROOT, FAULTS)
    wanted = flags.only or range(1, len(FAULTS) + 1)
    if flags.list:
        print("\n".join(f"{number} {FAULTS[number - 1].area}: {FAULTS[number - 1].words}" for number in wanted))
        return
    results: Results = json.loads(flags.state.read_text()) if flags.state.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mldiv-mutations-") as folder:
        copy, at = copy_of(ROOT, Path(folder).resolve()), commit()
        code, said = python(copy, "-c", IMPORTS)
        if code or not Path(said.strip().splitlines()[-1]).is_relative_to(copy):
            sys.exit(f"The copy's own code is not what is imported:\n{said}")
        for number in wanted:
            fault = FAULTS[number - 1]
            known = results.get(identity(fault))
            if known and not flags.only and (known["caught"] or flags.nearest_only or not known["nearest_only"]):
                continue
            print(f"{number} {fault.area}: {fault.words}", flush=True)
            result = results[identity(fault)] = attempt(copy, fault, flags.nearest_only) | {"commit": at}
            print(f"   {result['unfair'] or result['test'] or 'not caught'}, {result['seconds']:.0f} s", flush=True)
            flags.state.write_text(json.dumps(results, indent=1))
            flags.out.write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
