"""Tests connect to no other machine, so they pass with the network cut."""

import socket

import pytest
from batchscale.measure.data.files.downloads import https_opener


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_a_test_that_asks_for_another_machine_is_refused_at_once(address):
    with pytest.raises(OSError, match="the network is cut in tests"):
        socket.create_connection((address, 80), timeout=60)
    with pytest.raises(OSError, match="the network is cut in tests"):
        https_opener().open(f"https://[{address}]/" if ":" in address else f"https://{address}/", timeout=60)


def test_this_machine_is_within_reach():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"here")
        assert client.recv(4) == b"here"
