"""Find which of Ray's processes listen where other machines can come: a token guards most of them, and nothing encrypts."""

from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from mldiv.doctor import cluster
from mldiv.doctor.machine import OK, WARNING, Finding, some

#: In the command line of a process of Ray's own, or in the title of one of its workers.
MARKS = ("/ray/core/src/ray/", "/ray/dashboard/", "/ray/_private/", "/ray/autoscaler/", "ray::")

CLOSE = "close all ports but SSH to the world, between the nodes leave them open (docs/network.md)"


def open_ports() -> dict[str, list[str]]:
    """Return the addresses beyond loopback at which this process and Ray's listen, this user's on this node: by program."""
    import psutil

    found: dict[str, list[str]] = {}
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
        if process.pid == psutil.Process().pid or any(mark in title for mark in MARKS):
            with suppress(psutil.Error):
                listening = [entry.laddr for entry in process.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
                places = [place.ip for place in listening if not _parsed(place.ip).is_loopback]
                if places:
                    found.setdefault(program(title), []).extend(places)
    return found


def _parsed(text: str) -> IPv4Address | IPv6Address:
    """An address of version 4 in the form of version 6 (::ffff:127.0.0.1) is what it stands for."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def program(title: str) -> str:
    """Return what a person calls the program with such a command line: raylet, agent.py, RayTrainWorker."""
    if "ray::" in title:
        return title.partition("ray::")[2].partition(".")[0].split()[0]
    words = [word.rpartition("/")[2] for word in title.split() if any(mark in word for mark in MARKS)]
    return words[0] if words else "the driver"


def own_addresses() -> list[str]:
    """Return this machine's addresses, but loopback's and those of one link."""
    import psutil

    found = []
    for entry in (entry for entries in psutil.net_if_addrs().values() for entry in entries):
        with suppress(ValueError):  # of hardware
            address = _parsed(entry.address)
            if not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return found


def open_to_the_world(places: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the addresses among ``places`` that the whole internet may know; the unspecified one stands for all ``own``."""
    found = {text for place in places for text in (own if _parsed(place).is_unspecified else [place])}
    return sorted(text for text in found if _parsed(text).is_global)


def look() -> tuple[dict[str, list[str]], list[str]]:
    """Return, of a node, what listens beyond loopback, and which of its addresses the whole internet may know."""
    ports = open_ports()
    return ports, open_to_the_world((place for places in ports.values() for place in places), own_addresses())


def beyond_loopback(flags: Namespace) -> Finding:
    """Check that nothing of Ray's on this machine alone listens to others, nor on a cluster's nodes to the whole internet."""
    answers, wrong = ({"this machine": look()}, []) if flags.address == "local" else cluster.ask_all(flags, look)
    said = []
    for node, (ports, world) in answers.items():
        listening = ", ".join(f"{name} ({len(places)})" for name, places in sorted(ports.items()))
        if listening:
            said.append(f"{node}: ports of {listening}")
        wrong += [f"{node}: ports of {listening} at {address}" for address in world]
    if wrong or (said and flags.address == "local"):
        return Finding(WARNING, f"open beyond loopback: {some(wrong or said)}", CLOSE)
    if said:
        return Finding(OK, f"open between the nodes, and to whoever reaches them: {some(said)}; {CLOSE}")
    return Finding(OK, "Ray listens at loopback alone")
