"""Network namespaces: one for the coordinator, and one per site with a link to it alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

__all__ = ["ADDRESS", "NET", "SITES", "cut", "link", "namespaces", "possible"]

SITES = ("clinic-a", "clinic-b", "clinic-c")
ADDRESS, NET = "10.77.255.1", "10.77"


@contextlib.contextmanager
def namespaces() -> Iterator[str]:
    """One for the coordinator and one per site, each with a link to the coordinator's alone."""
    prefix = f"fm{os.getpid()}"
    names = [f"{prefix}-c", *(f"{prefix}-{site}" for site in SITES)]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names[0], "address", "add", f"{ADDRESS}/32", "dev", "lo")
        for number, name in enumerate(names[1:], start=1):
            link, near = f"c{number}", f"{NET}.{number}"
            _ip(
                "-n",
                names[0],
                "link",
                "add",
                link,
                "type",
                "veth",
                "peer",
                "name",
                "up0",
                "netns",
                name,
            )
            for where, device, address in ((names[0], link, 1), (name, "up0", 2)):
                _ip("-n", where, "address", "add", f"{near}.{address}/30", "dev", device)
                _ip("-n", where, "link", "set", device, "up")
            _ip("-n", name, "route", "add", f"{ADDRESS}/32", "via", f"{near}.1")
        _ip("netns", "exec", names[0], "sysctl", "-qw", "net.ipv4.ip_forward=0")
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def possible() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no ip command"
    name = f"fm{os.getpid()}-try"
    done = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if done.returncode:
        return "no right to make network namespaces"
    _ip("netns", "delete", name)
    return None


def link(site: str) -> str:
    """The coordinator's end of a site's link."""
    return f"c{SITES.index(site) + 1}"


@contextlib.contextmanager
def cut(site: str) -> Iterator[None]:
    """The network to a site is gone for a while; from inside the coordinator's namespace."""
    _ip("link", "set", link(site), "down")
    try:
        yield
    finally:
        _ip("link", "set", link(site), "up")
