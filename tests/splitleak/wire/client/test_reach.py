"""What keeps a client from a server is said at once, and by name."""

import contextlib
import http.server
import socket
import subprocess
import threading
import time

import grpc
import pytest

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.reach import Obstacle, obstacle, proxy_of
from splitleak.wire.security import TlsClientConfig, TlsServerConfig
from splitleak.wire.server.server import ServerConfig, serve

PATIENCE_S = 120.0


@contextlib.contextmanager
def talker(said=b""):
    """A server that answers each connection with ``said`` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def work():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(1024)
                        connection.sendall(said)

        threading.Thread(target=work, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def refusal(address, **config):
    started = time.monotonic()
    with (
        pytest.raises(ConnectionError) as caught,
        connect(address, ChannelConfig(**{"connect_timeout_s": PATIENCE_S, **config})),
    ):
        pass
    assert time.monotonic() - started < PATIENCE_S / 2  # without waiting, on a busy machine too
    return str(caught.value)


def tls_server(certificates, client_ca=None):
    pair = {"certificate": certificates / "server.pem", "key": certificates / "server.key"}
    tls = TlsServerConfig(**pair, client_ca=client_ca and certificates / client_ca)
    return serve(lambda server: None, ServerConfig(tls=tls))


def test_a_host_that_nobody_knows():
    assert "got no host of the name 'nowhere.invalid'" in refusal("nowhere.invalid:8001")


@pytest.mark.slow
def test_a_web_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert "got an HTTP/1 server, which speaks no gRPC" in refusal(f"127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_another_protocol():
    with talker(b"SSH-2.0-OpenSSH_9\r\n") as port:
        assert "another protocol, which says b'SSH-2.0" in refusal(f"127.0.0.1:{port}")


def test_a_server_with_tls_where_none_is_expected(certificates):
    with tls_server(certificates) as port:
        assert "got a server that wants TLS" in refusal(f"127.0.0.1:{port}")


def test_a_server_without_tls_where_it_is_expected(certificates):
    with serve(lambda server: None, ServerConfig()) as port:
        said = refusal(f"localhost:{port}", tls=TlsClientConfig(ca=certificates / "ca.pem"))
    assert "TLS" in said


@pytest.mark.slow
def test_a_strangers_certificate_and_another_name(certificates):
    with tls_server(certificates) as port:
        said = refusal(f"localhost:{port}", tls=TlsClientConfig(ca=certificates / "other-ca.pem"))
        assert "got a certificate that is refused: " in said
        other = TlsClientConfig(ca=certificates / "ca.pem", server_name="else.where")
        assert "else.where" in refusal(f"localhost:{port}", tls=other)


def test_an_expired_certificate(certificates, tmp_path):
    request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=old"]
    subprocess.run([*request, "-keyout", "old.key", "-out", "old.csr"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost")
    authority = ["-CA", certificates / "ca.pem", "-CAkey", certificates / "ca.key", "-extfile", "names"]
    sign = ["openssl", "x509", "-req", "-in", "old.csr", "-days", "-1", *authority, "-out", "old.pem"]
    if subprocess.run(sign, cwd=tmp_path, capture_output=True).returncode != 0:
        pytest.skip("this openssl signs nothing that has expired")
    tls = TlsServerConfig(certificate=tmp_path / "old.pem", key=tmp_path / "old.key")
    with serve(lambda server: None, ServerConfig(tls=tls)) as port:
        said = refusal(f"localhost:{port}", tls=TlsClientConfig(ca=certificates / "ca.pem"))
    assert "certificate has expired" in said


@pytest.mark.slow
def test_a_port_that_refuses_is_told_at_once_and_waited_for(caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = refusal(f"127.0.0.1:{port}", connect_timeout_s=1)
    assert "within 1 s, got no answer, but a refusal: nothing listens on this port" in said
    assert "a refusal: nothing listens on this port; waiting for up to 1 s" in caplog.text


@pytest.mark.slow
def test_a_server_that_begins_late_is_waited_for_with_patience():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as stack:

        def begin():
            stack.enter_context(serve(lambda server: None, ServerConfig(address=address)))

        timer = threading.Timer(0.5, begin)
        timer.start()
        with connect(address, ChannelConfig(connect_timeout_s=0.1), patience_s=60):
            timer.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy", "all_proxy"])
def test_a_proxy_is_named_and_never_for_this_machine(monkeypatch, name):
    with talker() as dead, serve(lambda server: None, ServerConfig()) as port:
        monkeypatch.setenv(name, f"http://user:pa55word@127.0.0.1:{dead}")
        for host in ("127.0.0.1", "localhost"):
            with connect(f"{host}:{port}", ChannelConfig(connect_timeout_s=10)) as channel:
                assert isinstance(channel, grpc.Channel)
        if name != "all_proxy":  # which gRPC does not read
            said = refusal("example.invalid:8001", connect_timeout_s=0.5)
            assert f"got no answer through the proxy 127.0.0.1:{dead} ({name})" in said
            assert "pa55word" not in said
            assert proxy_of("127.0.0.1:1") is None


def test_a_silent_server_has_no_reason():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert obstacle(f"127.0.0.1:{silent.getsockname()[1]}", None, 0.2) is None
    assert obstacle("unix:/nowhere", None, 0.2) is None


def test_whoever_hangs_up_may_yet_come():
    with talker() as port:
        found = obstacle(f"127.0.0.1:{port}", None, 2)
    assert found == Obstacle("a connection that was closed unanswered", False)
