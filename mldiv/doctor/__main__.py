"""Say before a long sweep what in this installation or cluster would make it fail: `python -m mldiv.doctor`.

Takes the studies' flags that matter, and loads no torch for that, which may be what is broken. One line per check; the exit
code is 1 when one failed.
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from mldiv.cli.flags import check_numbers, current_names
from mldiv.cli.screen import interrupt
from mldiv.doctor import cluster, locations, machine, plugins, ports
from mldiv.doctor.machine import AS_LOCKED, FAILED, GROUP_BYTES, OK, SKIPPED, WARNING, Check, Finding, first_line
from mldiv.environment.terminal import Parser
from mldiv.settings.setting import ConfigError


def parse(argv: Sequence[str] | None = None, prog: str = "python -m mldiv.doctor") -> Namespace:
    """Read the command line; ``argv`` is that of the process where it is None."""
    parser = Parser(prog=prog, description="What would make a long sweep fail here?")
    parser.add_argument("--preset", default="auto", help="as the studies' flag of that name, like all but the last")
    parser.add_argument("--data")
    parser.add_argument("--data-root")
    parser.add_argument("--out", metavar="PLACE")
    parser.add_argument("--cache", metavar="PLACE")
    parser.add_argument("--cache-size", type=float, default=20.0, metavar="GB")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--parallel-trials", type=int, metavar="N")
    parser.add_argument("--cpus-per-worker", type=float, metavar="N")
    parser.add_argument("--gpus-per-worker", type=float, metavar="N")
    parser.add_argument("--in-process", action="store_true", help="of a study that trains here: nothing of Ray is looked at")
    parser.add_argument("--address")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="for each check (default 120)")
    flags = parser.parse_args(current_names(sys.argv[1:] if argv is None else argv))
    if flags.in_process:  # no cluster is asked, RAY_ADDRESS or not
        flags.address = "local"
    elif flags.address is None:
        flags.address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        check_numbers(flags)
    except ConfigError as error:
        parser.error(str(error))
    if not flags.limit > 0:
        parser.error(f"--limit {flags.limit:g}: must be greater than zero")
    return flags


def joined(flags: Namespace) -> Finding:
    """Start Ray on this machine, or join the cluster at --address."""
    import ray

    from mldiv.cluster.nodes import connect, private_folder

    began, local = time.monotonic(), flags.address == "local"
    if not local and (refused := check_reachable(flags.address)) is not None:
        return refused
    others = _other_rays() if local else []
    try:
        connect(flags.address)
    except (ConfigError, ray.exceptions.RayError) as error:
        mend = f"its logs are in {private_folder()}/ray/session_latest/logs" if local else ""
        return Finding(FAILED, first_line(error), mend)
    total = ray.cluster_resources()
    did = "starts on this machine" if local else f"joined at {flags.address}"
    what = (
        f"{did} in {time.monotonic() - began:.0f} s: {cluster.count(cluster.nodes())}, "
        f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
    )
    if others:
        mend = "join it (--address auto) or stop it (ray stop, on a machine where no study runs)"
        return Finding(WARNING, f"{what}; another Ray (process {others[0]}) shares the processors", mend)
    return Finding(OK, what)


def _other_rays() -> list[int]:
    """List the processes of this machine that are the heads of a Ray cluster."""
    import psutil

    processes = psutil.process_iter(["cmdline"])
    return sorted(process.pid for process in processes if (process.info["cmdline"] or [""])[0].endswith("/gcs_server"))


def check_reachable(address: str) -> Finding | None:
    """Find why the cluster's head does not answer; None when it does. Ray itself would try for a minute."""
    from mldiv.cluster.nodes import check_answer, head_of

    up = "start it (ray up, or ray start --head)"
    head = head_of(address)
    if head is None:
        return Finding(FAILED, "--address auto: no Ray runs on this machine", f"{up}, or name it: --address HOST:6379")
    try:
        check_answer(head)
    except ConnectionError as error:
        stale = "; if it is long gone, remove ray_current_cluster in Ray's folder, /tmp/ray" if address == "auto" else ""
        return Finding(FAILED, f"--address {address}: nothing answers at {head} ({error.strerror})", f"{up}{stale}")
    except (OSError, ValueError) as error:
        return Finding(FAILED, f"--address {address}: cannot be reached ({error})", f"{up}, or see to the network")
    return None


def leave(flags: Namespace) -> Finding:
    """Leave the cluster, or stop what `joined` started."""
    import ray

    ray.shutdown()
    return Finding(OK, "left")


def check_capacity(flags: Namespace) -> Finding:
    """Count how many trials fit at once, on what has joined or what the autoscaler may add."""
    from mldiv.cluster import nodes
    from mldiv.cluster.nodes import worker_resources
    from mldiv.presets import PRESETS

    present, may_come = nodes.nodes(), nodes.largest() if flags.address != "local" else []
    resources = worker_resources(PRESETS[locations.preset(flags) or "demo"], [*present, *may_come], flags)
    fits, most = resources.fit(present), resources.fit(may_come)
    if not fits and not most and flags.parallel_trials is None:
        try:
            resources.groups(present, 1)
        except ConfigError as error:
            return Finding(FAILED, str(error))
    what = f"{fits} now, of {flags.workers} process{'es' * (flags.workers > 1)} each" + (
        f"; {most} when all nodes have come" if most else ""
    )
    if not max(fits, most) or (flags.parallel_trials or 0) > max(fits, most):
        what += f"; --parallel-trials {flags.parallel_trials} asks for more"
        return Finding(WARNING, what, "lower it, unless an autoscaler adds nodes")
    if (free := machine.free_memory()) < (flags.parallel_trials or max(fits, most)) * GROUP_BYTES:
        what += f"; Ray keeps {GROUP_BYTES / 1e9:g} GB for each here, where the driver runs, and {free / 1e9:.1f} GB are free"
        return Finding(WARNING, what, "a head with more memory, or fewer at once (--parallel-trials)")
    return Finding(OK, what)


def examine(check: Check, flags: Namespace, pool: ThreadPoolExecutor) -> Finding:
    """Return what a check finds; one that raises, or takes longer than the limit, has failed."""
    try:
        return pool.submit(check, flags).result(flags.limit)
    except TimeoutError:
        mend = "look at what it needs (disk, network, cluster), or allow more by --limit"
        return Finding(FAILED, f"no answer within {flags.limit:g} s", mend)
    except ImportError as error:
        return Finding(FAILED, first_line(error), AS_LOCKED)
    except Exception as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return Finding(FAILED, kind + first_line(error))


def main(argv: Sequence[str] | None = None, prog: str = "python -m mldiv.doctor") -> int:
    """Go through all checks and print their findings; the exit code is 1 when one failed, else 0."""
    flags = parse(argv, prog)
    verdicts: dict[str, str] = {}
    checks = {name: check for name, check in CHECKS.items() if not (flags.in_process and (name == "Ray" or name in AFTER_RAY))}
    # Its threads stay to the end: what Ray starts dies with the thread that started it.
    pool = ThreadPoolExecutor(len(checks) + 1)
    for name, check in checks.items():
        if name in AFTER_RAY and verdicts["Ray"] == FAILED:
            found = Finding(SKIPPED, "needs Ray")
        else:
            found = examine(check, flags, pool)
        verdicts[name] = found.verdict
        print(f"{found.verdict:8} {name:16} {found.what}{f'; {found.mend}' if found.mend else ''}", flush=True)
    if verdicts.get("Ray", FAILED) != FAILED:
        examine(leave, flags, pool)
    pool.shutdown(wait=False)
    failed, warned = (list(verdicts.values()).count(verdict) for verdict in (FAILED, WARNING))
    print(f"\n{failed} failed, {warned} with a warning" + ("" if failed else ": nothing found that would make a sweep fail"))
    return 1 if failed else 0


#: What is looked at once Ray runs.
AFTER_RAY: dict[str, Check] = {
    "trials at once": check_capacity, "nodes' plug-ins": plugins.everywhere, **cluster.CHECKS,
    "open ports": ports.beyond_loopback,
}  # fmt: skip
#: Every check by name, in order: plug-ins before the data, which one may bring.
CHECKS: dict[str, Check] = {
    **machine.CHECKS, "plug-ins": plugins.here, **locations.CHECKS, "Ray": joined, "data": locations.data, **AFTER_RAY,
}  # fmt: skip


def run(argv: Sequence[str] | None = None, **prog: str) -> NoReturn:
    """Do what `main` does and end the process, and at Ctrl-C all that it started."""
    try:
        code = main(argv, **prog)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        interrupt.end()
    sys.stdout.flush()
    os._exit(code)  # a check that had no answer may wait for ever


if __name__ == "__main__":
    run()
