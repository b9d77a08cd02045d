"""How ranks would reach each other: backends, network interfaces, the name of this machine."""

import ipaddress
import socket
import struct
import sys
import time
from pathlib import Path

from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.finding import Finding

SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
SLOW_S = 2.0
CHOOSE = (
    "For runs over several machines set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface "
    "that joins them, and give the others this machine's address instead of its name."
)


def backends(answer: Answer, has_gpu: bool) -> Finding:
    """gloo carries flags and counts, and gradients of CPUs; nccl gradients of GPUs.

    Args:
        answer: to `backends`.
    """
    advice = "Install a torch that is built with it: runs on several processes need it."
    if answer.error:
        return Finding("backends", f"torch cannot tell: {answer.error}", "problem", advice)
    gloo, nccl = answer.value["gloo"], answer.value["nccl"]
    found = f"gloo {'is there' if gloo else 'is missing'}; nccl {nccl or 'is missing'}"
    if gloo and (nccl or not has_gpu):
        return Finding("backends", found, facts=answer.value)
    return Finding("backends", found, "warning", advice, facts=answer.value)


def interfaces() -> Finding:
    """The interfaces with their addresses."""
    found = {name: addresses(name) for _, name in socket.if_nameindex()}
    said = [f"{name} {' '.join(known)}" for name, known in found.items() if known]
    without = [name for name, known in found.items() if not known]
    if without:
        said.append(f"without address: {', '.join(without)}")
    facts = {"interfaces": found}
    if not any(ipaddress.ip_address(a).is_loopback for known in found.values() for a in known):
        if not any(found.values()):
            return Finding("interfaces", "; ".join(said) or "none that can be seen", facts=facts)
        advice = "Bring up the loopback interface (lo): processes of a run meet through it."
        return Finding("interfaces", "; ".join(said), "warning", advice, facts=facts)
    return Finding("interfaces", "; ".join(said), facts=facts)


def addresses(name: str, table: Path = Path("/proc/net/if_inet6")) -> list[str]:
    """The addresses of an interface, but those that only count on its own link (Linux)."""
    found = []
    if sys.platform.startswith("linux"):
        import fcntl

        request = struct.pack("256s", name.encode()[:15])
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            found.append(socket.inet_ntoa(answer[20:24]))
        except OSError:
            pass  # it has none
    try:
        rows = [line.split() for line in table.read_text("utf-8").splitlines()]
    except OSError:
        return found
    six = [str(ipaddress.IPv6Address(int(row[0], 16))) for row in rows if row[5:] == [name]]
    return found + [text for text in six if not ipaddress.ip_address(text).is_link_local]


def host_name() -> Finding:
    """Whether this machine's name leads to it: torchrun and gloo look it up."""
    name, start = socket.gethostname(), time.monotonic()
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        found = f"{name} has no address: {error.strerror or error}"
        advice = f"Add a line for {name} to /etc/hosts. {CHOOSE}"
        return Finding("host name", found, "warning", advice)
    seconds = time.monotonic() - start
    known = list(dict.fromkeys(str(address[4][0]) for address in answers))
    found, facts = f"{name} is {', '.join(known)}", {"name": name, "addresses": known}
    facts["seconds"] = seconds
    strange = [address for address in known if not is_ours(address)]
    if strange:
        found += f"; not of this machine: {', '.join(strange)}"
        advice = f"Correct the line for {name} in /etc/hosts or the DNS. {CHOOSE}"
        return Finding("host name", found, "warning", advice, facts=facts)
    if seconds > SLOW_S:
        advice = f"Add a line for {name} to /etc/hosts: the DNS is slow."
        return Finding("host name", f"{found}, after {seconds:.0f} s", "warning", advice)
    if all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in known):
        found += " (this machine only: see GLOO_SOCKET_IFNAME before runs over several)"
    return Finding("host name", found, facts=facts)


def is_ours(address: str) -> bool:
    """Whether this machine can listen at an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.bind((address, 0))
    except OSError:
        return False
    return True
