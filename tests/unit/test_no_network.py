"The guard that keeps tests on this machine"
import socket
import pytest


def test_another_machine_is_refused_by_name_and_by_address():
    with pytest.raises(OSError, match="tried to reach 'huggingface.co'"):
        socket.create_connection(("huggingface.co", 443))
    with pytest.raises(OSError, match="tried to reach '192.0.2.1'"): socket.socket().connect(("192.0.2.1", 80))


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5): pass
