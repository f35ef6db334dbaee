"""Machines with SSH on this one: each a namespace of its own of network, processes and files, with OpenSSH's server in it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.processes import running

#: The machines' network, of this process alone: a bridge of this name, this end's address and the machines' from .1 on.
BRIDGE, NETWORK = f"mldiv{os.getpid()}", f"10.{200 + os.getpid() // 250 % 50}.{os.getpid() % 250}"

#: What must be here; Debian's openssh-server, rsync, iproute2 and util-linux.
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare")

#: On a machine, before its server: a name of its own, which means 127.0.1.1 there, as on Debian; /tmp and a home of its own;
#: {shared}, the interpreter and its environment where they are.
BEGIN = """
set -e
hostname {name}
mount --bind {shared}/hosts-{name} /etc/hosts
mount -t tmpfs tmpfs /mnt
mkdir /mnt/tmp /mnt/home /mnt/base /mnt/prefix /mnt/shared
mount --bind {base} /mnt/base
mount --bind {prefix} /mnt/prefix
mount --bind {shared} /mnt/shared
mount --bind /mnt/home {home}
mount --bind /mnt/tmp /tmp
mkdir -p {base} {prefix} {shared} /run/sshd
mount --bind /mnt/base {base}
mount --bind /mnt/prefix {prefix}
mount --bind /mnt/shared {shared}
chmod 1777 /tmp
exec {sshd} -D -e -f {config}
"""

CONFIG = """
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


def missing() -> str | None:
    """Why there can be no machines here."""
    lacks = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if lacks:
        return f"not installed: {', '.join(lacks)}"
    tried = subprocess.run(["unshare", "-mnupf", "--mount-proc", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode or os.getuid() else None


def do(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"


@contextlib.contextmanager
def machines(count: int, folder: Path) -> Iterator[list[str]]:
    """The addresses of ``count`` machines, to be entered with the key ``folder``/user; ``folder`` is the same on all."""
    for name in ("host", "user"):
        do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    names, servers = [f"{BRIDGE}-{number}" for number in range(1, count + 1)], []
    for name in names:
        (folder / f"hosts-{name}").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    try:
        do("ip", "link", "add", BRIDGE, "type", "bridge")
        do("ip", "address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        do("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=1):
            servers.append(_machine(number, name, folder))
        for number in range(1, count + 1):
            _wait(f"{NETWORK}.{number}")
        yield [f"{NETWORK}.{number}" for number in range(1, count + 1)]
    finally:
        for server in servers:
            for first in (pid for pid, parent, _ in list(running()) if parent == server.pid):
                os.kill(first, signal.SIGKILL)  # all others there end with it
            server.wait()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)


def _machine(number: int, name: str, folder: Path) -> subprocess.Popen:
    address, inside = f"{NETWORK}.{number}", ["ip", "netns", "exec", name]
    do("ip", "netns", "add", name)
    do("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    do("ip", "link", "set", name, "master", BRIDGE, "up")
    do(*inside, "ip", "link", "set", "lo", "up")
    do(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
    do(*inside, "ip", "link", "set", "eth0", "up")
    do(*inside, "ip", "route", "add", "default", "via", f"{NETWORK}.254")  # by which Ray finds the machine's own address
    config = folder / f"sshd-{number}"
    config.write_text(CONFIG.format(address=address, folder=folder))
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
    values = {"shared": folder, "base": sys.base_prefix, "prefix": sys.prefix, "home": Path.home()}
    begin = BEGIN.format(**values, name=name, sshd=sshd, config=config)
    with (folder / f"sshd-{number}.log").open("w") as log:
        return subprocess.Popen([*inside, "unshare", "-mupf", "--mount-proc", "bash", "-c", begin], stdout=log, stderr=log)


def _wait(address: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), 1):
            return
        assert time.monotonic() < end, f"no server at {address}"
        time.sleep(0.1)
