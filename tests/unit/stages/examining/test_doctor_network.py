"""Names that lead nowhere, slowly or elsewhere; interfaces of this machine."""

import socket

import pytest

from dist_oaa.stages.examining import network
from dist_oaa.stages.examining.asking import Answer


def resolves(monkeypatch, *addresses: str) -> None:
    answers = [(2, 1, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(network.socket, "getaddrinfo", lambda *_args, **_kwargs: answers)


def test_a_name_without_an_address(monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(network.socket, "getaddrinfo", unknown)
    found = network.host_name()
    assert found.state == "warning"
    assert "Name or service not known" in found.found
    assert "/etc/hosts" in found.advice


def test_a_name_of_another_machine(monkeypatch):
    resolves(monkeypatch, "127.0.0.1", "198.51.100.7")
    found = network.host_name()
    assert found.state == "warning"
    assert found.found.endswith("not of this machine: 198.51.100.7")


def test_a_name_that_is_right(monkeypatch):
    resolves(monkeypatch, "127.0.1.1")
    found = network.host_name()
    assert found.state == "ok"
    assert "this machine only" in found.found
    monkeypatch.setattr(network, "is_ours", lambda _: True)
    resolves(monkeypatch, "10.0.0.5", "10.0.0.5", "fe80::1%eth0")
    found = network.host_name()
    assert found.facts["addresses"] == ["10.0.0.5", "fe80::1%eth0"]
    assert "this machine only" not in found.found


def test_a_slow_answer(monkeypatch):
    resolves(monkeypatch, "127.0.0.1")
    times = iter([0.0, 7.0])
    monkeypatch.setattr(network.time, "monotonic", lambda: next(times))
    found = network.host_name()
    assert (found.state, found.found[-9:]) == ("warning", "after 7 s")


def test_loopback_is_among_the_interfaces():
    found = network.interfaces()
    assert "127.0.0.1" in {a for known in found.facts["interfaces"].values() for a in known}
    assert found.state == "ok"


def test_no_loopback(monkeypatch):
    monkeypatch.setattr(network.socket, "if_nameindex", lambda: [(1, "eth0"), (2, "ib0")])
    monkeypatch.setattr(network, "addresses", lambda name: ["10.0.0.5"] if name == "eth0" else [])
    found = network.interfaces()
    assert found.state == "warning"
    assert found.found == "eth0 10.0.0.5; without address: ib0"


def test_addresses_of_version_6(tmp_path):
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80     nix0\n"
        "fe800000000000000000000000000001 02 40 20 80     nix0\n"
        "20010db8000000000000000000000002 02 40 00 80    other0\n"
    )
    assert network.addresses("nix0", table) == ["::1"]
    assert network.addresses("other0", table) == ["2001:db8::2"]
    assert network.addresses("nix0", tmp_path / "none") == []


@pytest.mark.parametrize(
    ("value", "has_gpu", "state"),
    [
        ({"gloo": True, "nccl": "2.30.7"}, True, "ok"),
        ({"gloo": True, "nccl": ""}, False, "ok"),
        ({"gloo": True, "nccl": ""}, True, "warning"),
        ({"gloo": False, "nccl": ""}, False, "warning"),
    ],
)
def test_backends(value, has_gpu, state):
    assert network.backends(Answer(value), has_gpu).state == state
    assert network.backends(Answer(error="x"), has_gpu).state == "problem"


def test_an_address_of_documentation_is_not_ours():
    assert network.is_ours("127.0.0.1")
    assert not network.is_ours("198.51.100.7")
    assert not network.is_ours("2001:db8::77")
