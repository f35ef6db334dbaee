"""Find what in a Ray cluster would make a long sweep fail: its nodes are asked one by one, each for a bounded time."""

import os
import platform
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldiv.doctor import locations, machine
from mldiv.doctor.machine import FAILED, OK, WARNING, Check, Finding, first_line, some
from mldiv.environment import checkout
from mldiv.plugins import loading
from mldiv.plugins.loading import Plugin
from mldiv.records.checked_files import existing

if TYPE_CHECKING:
    from mldiv.storage.object_store import Remote

#: How far clocks may differ: the store tells by them what was used last, and an object store refuses a quarter of an hour.
CLOCK_SECONDS = 30.0
SAME = "on every node: the same checkout and make .venv (ray up does both)"


class NoAnswer(Exception):
    """A node's task that did not end in time."""


def nodes() -> dict[str, dict[str, Any]]:
    """Return the living nodes by name."""
    import ray

    return {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node for node in ray.nodes() if node["Alive"]}


def ask(function: Callable[..., Any], arguments: Mapping[str, tuple], seconds: float) -> dict[str, Any]:
    """Run ``function`` on each node named, side by side, with its arguments; wait so many seconds in all.

    The answers by node: what it returned, or the exception: its own, Ray's, or `NoAnswer`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there, task = nodes(), ray.remote(function)
    asked = {}
    for name, given in arguments.items():
        on = NodeAffinitySchedulingStrategy(there[name]["NodeID"], soft=False)
        asked[task.options(num_cpus=0, max_retries=0, scheduling_strategy=on).remote(*given)] = name
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    answers: dict[str, Any] = {asked[reference]: NoAnswer(f"no answer within {seconds:g} s") for reference in silent}
    for reference in silent:
        ray.cancel(reference, force=True)
    for reference in answered:
        try:
            answers[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            answers[asked[reference]] = error.cause or error
        except ray.exceptions.RayError as error:
            answers[asked[reference]] = error
    return {name: answers[name] for name in arguments}


def ask_all(flags: Namespace, function: Callable[..., Any], *given: Any) -> tuple[dict[str, Any], list[str]]:
    """Run ``function(*given)`` on every node, as `ask` does; return what they answer, and `problems`."""
    answers = ask(function, dict.fromkeys(nodes(), given), flags.limit * 0.8)
    return {node: answer for node, answer in answers.items() if not isinstance(answer, Exception)}, problems(answers)


def problems(answers: Mapping[str, Any]) -> list[str]:
    """Name the nodes that gave an exception, and say which."""
    return [f"{node}: {_said(answer)}" for node, answer in answers.items() if isinstance(answer, Exception)]


def _said(error: Exception) -> str:
    """Return an exception's first line; of a function that a node cannot even import, what is missing there."""
    lines = [line for line in str(error).splitlines() if line.startswith(("ModuleNotFoundError:", "ImportError:"))]
    return lines[-1] if lines else first_line(error)


def software(names: list[str]) -> dict[str, str]:
    """Return what must be the same on every node: Python, the packages named, and the code of mldiv itself."""
    found = {name: machine.version(name) or "missing" for name in names}
    return {"Python": platform.python_version(), **found, "mldiv's code": checkout.code()}


def same_software(flags: Namespace) -> Finding:
    """Check that every node runs what this machine runs."""
    names = machine.dependencies()
    here, (answers, wrong) = software(names), ask_all(flags, software, names)
    for node, there in answers.items():
        wrong += [f"{node}: {name} {there[name]}, {here[name]} here" for name in here if there[name] != here[name]]
    return Finding(FAILED, some(wrong), SAME) if wrong else Finding(OK, f"the same on {count(answers)}")


def count_gpus() -> int:
    """Count the GPUs that torch can use on this node, whatever Ray gives the task that asks.

    Raises: RuntimeError when one of them does not compute.
    """
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and (found := machine._try_gpus(count)).verdict != OK:
        raise RuntimeError(found.what)
    return count


def same_gpus(flags: Namespace) -> Finding:
    """Check that Ray and torch see as many GPUs on every node."""
    known, unused = nodes(), []
    answers, wrong = ask_all(flags, count_gpus)
    for node, torch_sees in answers.items():
        ray_sees = int(known[node]["Resources"].get("GPU", 0))
        if ray_sees > torch_sees:
            wrong.append(f"{node}: Ray counts {ray_sees} GPUs, torch can use {torch_sees}")
        elif ray_sees < torch_sees:
            unused.append(f"{node}: torch can use {torch_sees} GPUs, Ray counts {ray_sees}")
    if wrong:
        return Finding(FAILED, some(wrong), "python -m mldiv.doctor on that node says why, ray start --num-gpus how many")
    if unused:
        return Finding(WARNING, some(unused), "start that node's Ray with --num-gpus, or without it")
    return Finding(OK, f"Ray counts what torch can use on {count(answers)}")


def now() -> float:
    """Return a node's time, in seconds since 1970."""
    return time.time()


def same_clocks(flags: Namespace) -> Finding:
    """Check that no node's clock is far from this machine's: its answer lies between question and answer."""
    asked = time.time()
    answers, wrong = ask_all(flags, now)
    ended = time.time()
    for node, there in answers.items():
        if (off := max(asked - there, there - ended)) > CLOCK_SECONDS:
            wrong.append(f"{node}: {off:.0f} s {'behind' if there < asked else 'ahead'}")
    if wrong:
        return Finding(WARNING, some(wrong), "let a time service set it (chrony, systemd-timesyncd)")
    return Finding(OK, f"within {CLOCK_SECONDS:g} s on {count(answers)}")


def memory(flags: Namespace) -> Finding:
    """Check that every node has room for a worker on each of its processors."""
    known, mend = nodes(), ""
    answers, wrong = ask_all(flags, machine.free_memory)
    for node, free in answers.items():
        workers = int(known[node]["Resources"].get("CPU", 0) / (flags.cpus_per_worker or 1.0))
        found = machine.judge_memory(free, workers, machine.WORKER_BYTES)
        if found.verdict != OK:
            wrong.append(f"{node}: {found.what}")
            mend = found.mend
    return Finding(WARNING, some(wrong), mend) if wrong else Finding(OK, f"enough on {count(answers)}")


def exchange(place: str, node: str, question: str) -> None:
    """Read, on a node, what the driver wrote, and leave an answer.

    Raises: OSError.
    """
    folder = _at(place)
    if folder.read(question) != b"head":
        raise OSError(f"{place}: another file of the same name")
    folder.write(f"{question}-{node}", node.encode())


def shared(which: str, flags: Namespace) -> Finding:
    """Check that --out ("out") or --cache ("store") is the same place for every node: what one writes there the others read."""
    place = locations.places(flags)[which]
    where, question = place if "://" in place else str(existing(Path(place))), f".shared-{uuid.uuid4().hex}"
    folder = _at(where)
    folder.write(question, b"head")
    try:
        answers = ask(exchange, {node: (where, node, question) for node in nodes()}, flags.limit * 0.8)
        wrong = [
            f"{node}: {why}"
            for node, answer in answers.items()
            if (why := _unshared(where, f"{question}-{node}", answer)) is not None
        ]
    finally:
        for name in (question, *(f"{question}-{node}" for node in nodes())):
            folder.remove(name)
    if wrong:
        mend = "mount one folder there on every machine, or take an object store (s3://...) that all may use"
        return Finding(FAILED, f"{place}: {some(wrong)}", mend)
    return Finding(OK, f"{place}: the same on {count(answers)}")


def _unshared(place: str, name: str, answer: Exception | None) -> str | None:
    """Say why a node that gave this answer to `exchange` and left a file does not share the place; None where it does."""
    if isinstance(answer, FileNotFoundError):
        return "what is written here is not seen there"
    if answer is not None:
        return _said(answer)
    try:
        _at(place).read(name)
    except OSError:
        return "what it writes there is not seen here"
    return None


def _at(place: str) -> "Remote":
    """Return the folder at a URL or a full path."""
    from mldiv.storage.object_store import Remote

    return Remote(place)


def read_data(name: str, root: str | None, plugins: list[Plugin]) -> None:
    """Check, on a node, that a data set, which a plug-in may bring, is complete.

    Raises: DataError; PluginError.
    """
    from mldiv.datasets import sources

    loading.load(plugins)
    sources.check(name, Path(root) if root else None)


def same_data(flags: Namespace) -> Finding:
    """Check that the data set is complete on every node, under the same path."""
    chosen = locations.dataset(flags)
    assert chosen is not None
    answers, wrong = ask_all(flags, read_data, *chosen, loading.loaded())
    if wrong:
        return Finding(FAILED, some(wrong), "put it under the same path on every node, or mount it")
    return Finding(OK, f"{chosen[0]} on {count(answers)}")


def find_port() -> int:
    """Find a port of this node at which nothing listens."""
    import ray

    from mldiv import distributed

    return distributed.free_port(ray.util.get_node_ip_address())


def all_reduce_ones(address: str, port: int, rank: int, size: int, seconds: float) -> float:
    """Add up ones, on a node, as one of ``size`` processes, as DDP adds up gradients; the sum.

    address, port: where they meet; seconds: after which it is given up, by an error of torch.distributed.
    """
    import ray
    import torch
    import torch.distributed as dist

    from mldiv import distributed

    distributed.meet_at(ray.util.get_node_ip_address())
    distributed.join(address, port, rank=rank, size=size, backend="gloo", seconds=seconds)
    try:
        total = torch.ones(1)
        dist.all_reduce(total)
        return float(total)
    finally:
        dist.destroy_process_group()


def reach_each_other(flags: Namespace) -> Finding:
    """Check that processes of one trial on several nodes reach each other: over gloo, as the rendezvous of NCCL begins."""
    known = nodes()
    if flags.workers < 2 or len(known) < 2:
        return Finding(OK, "not needed: " + ("one process per trial" if flags.workers < 2 else "one node"))
    first, seconds = next(iter(known)), flags.limit * 0.3
    port = ask(find_port, {first: ()}, seconds)[first]
    if isinstance(port, Exception):
        return Finding(FAILED, f"{first}: {first_line(port)}")
    address = known[first]["NodeManagerAddress"]
    given = {node: (address, port, rank, len(known), seconds) for rank, node in enumerate(known)}
    answers = ask(all_reduce_ones, given, 2 * seconds)
    wrong = problems(answers) or [
        f"{node}: {total:g} of {len(known)} ones" for node, total in answers.items() if total != len(known)
    ]
    if wrong:
        mend = "open all TCP ports between the nodes, or export GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME before ray start"
        return Finding(FAILED, some(wrong), mend)
    return Finding(OK, f"{len(known)} processes on as many nodes add up")


def count(answers: Mapping[str, Any]) -> str:
    """Say how many nodes these are."""
    return f"{len(answers)} node{'s' if len(answers) > 1 else ''}"


#: What every node is asked, in this order.
CHECKS: dict[str, Check] = {
    "nodes' software": same_software,
    "nodes' GPUs": same_gpus,
    "nodes' clocks": same_clocks,
    "nodes' memory": memory,
    "nodes' --out": partial(shared, "out"),
    "nodes' --cache": partial(shared, "store"),
    "nodes' data": same_data,
    "nodes' DDP": reach_each_other,
}
