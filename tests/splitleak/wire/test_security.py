"""Certificates and tokens: what is wrong with a file is said without a word of what is in it."""

import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitleak.wire.client.channel import ChannelConfig, open_channel
from splitleak.wire.security import (
    TlsClientConfig,
    TlsServerConfig,
    Tokens,
    make_token,
    read_beside,
    read_token,
)
from splitleak.wire.server.server import ServerConfig

WORD = "correct-horse-battery-staple"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "camera.token"
    path.write_text(WORD + "\n")
    return path


def test_a_token_that_was_made_is_its_clients_and_nobody_elses(tmp_path):
    tokens = tmp_path / "tokens.json"
    for client in ("camera-1", "camera-2"):
        make_token(client, tokens, tmp_path / f"{client}.token")
    known = Tokens.read(tokens)
    words = [read_token(tmp_path / f"camera-{number}.token") for number in (1, 2)]
    assert [known.client(word) for word in words] == ["camera-1", "camera-2"]
    assert known.client(words[0][:-1]) is None
    assert known.client("") is None
    assert known.client("\udcff\u20ac") is None


def test_the_server_keeps_no_token_and_only_the_owner_reads_the_clients(tmp_path):
    make_token("camera-1", tmp_path / "tokens.json", tmp_path / "camera-1.token")
    word = read_token(tmp_path / "camera-1.token")
    assert len(word) >= 32
    assert word not in (tmp_path / "tokens.json").read_text()
    for name in ("camera-1.token", "tokens.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_tokens_that_are_made_at_once_are_all_known(tmp_path):
    clients = [f"camera-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda name: make_token(name, tmp_path / "tokens.json", tmp_path / f"{name}.token"), clients))
    known = Tokens.read(tmp_path / "tokens.json")
    assert [known.client(read_token(tmp_path / f"{name}.token")) for name in clients] == clients


def test_a_token_that_is_there_is_not_overwritten(tmp_path):
    tokens, out = tmp_path / "tokens.json", tmp_path / "camera-1.token"
    make_token("camera-1", tokens, out)
    before = tokens.read_bytes(), out.read_bytes()
    with pytest.raises(FileExistsError):
        make_token("camera-1", tokens, out)
    assert (tokens.read_bytes(), out.read_bytes()) == before


def test_the_file_of_a_token_is_not_the_servers_own(tmp_path):
    (tmp_path / "link.token").symlink_to(tmp_path / "tokens.json")
    for out in ("tokens.json", "link.token"):
        with pytest.raises(ValueError, match=rf"expected a file .* beside the server's, got .*{out} for both"):
            make_token("camera-1", tmp_path / "tokens.json", tmp_path / out)
    assert not (tmp_path / "tokens.json").exists()


def test_a_new_token_takes_the_place_of_the_old_one(tmp_path):
    tokens = tmp_path / "tokens.json"
    make_token("camera-1", tokens, tmp_path / "old.token")
    make_token("camera-1", tokens, tmp_path / "new.token")
    known = Tokens.read(tokens)
    assert known.client(read_token(tmp_path / "old.token")) is None
    assert known.client(read_token(tmp_path / "new.token")) == "camera-1"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../camera", "ü"])
def test_a_clients_name_is_a_plain_word(tmp_path, name):
    with pytest.raises(ValueError, match="expected a client's name"):
        make_token(name, tmp_path / "tokens.json", tmp_path / "out.token")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("document", [f'{{"camera": "{WORD}"}}', f'["{WORD}"]', "{}", f'{{"{WORD}": 1}}'])
def test_a_file_of_tokens_that_is_none_is_refused_without_its_contents(tmp_path, document):
    path = tmp_path / "tokens.json"
    path.write_text(document)
    with pytest.raises(ValueError, match="expected") as caught:
        Tokens.read(path)
    assert str(path) in str(caught.value)
    assert WORD not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"short", WORD.encode() + b" and more", b"\xff" * 20, b"x" * 513])
def test_a_token_that_is_none_is_refused_without_its_contents(tmp_path, content):
    path = tmp_path / "camera.token"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a token of 16 to 512") as caught:
        read_token(path)
    assert WORD not in str(caught.value)


def test_a_client_sends_no_token_in_clear_to_another_machine(token_file):
    with pytest.raises(ValueError, match=r"expected TLS for cloud.example:8001, since a token would travel in clear"):
        open_channel("cloud.example:8001", ChannelConfig(token_file=token_file))
    open_channel("127.0.0.1:1", ChannelConfig(token_file=token_file)).close()


def test_a_server_takes_no_tokens_in_clear_from_other_machines(tmp_path):
    tokens = tmp_path / "tokens.json"
    with pytest.raises(ValueError, match=r"expected TLS on 0.0.0.0:8001, since tokens would travel in clear"):
        ServerConfig(address="0.0.0.0:8001", tokens_file=tokens)
    ServerConfig(address="127.0.0.1:8001", tokens_file=tokens)
    ServerConfig(address="0.0.0.0:8001", tokens_file=tokens, tls=TlsServerConfig(certificate=tokens, key=tokens))


def test_a_certificate_without_its_key_is_refused(certificates):
    with pytest.raises(ValueError, match="a certificate and a key together"):
        TlsClientConfig(certificate=certificates / "camera.pem")


@pytest.mark.parametrize(
    ("certificate", "key"), [("server.pem", "camera.key"), ("server.key", "server.key"), ("server.pem", "server.pem")]
)
def test_a_key_that_is_not_the_certificates_is_refused_by_name_alone(certificates, certificate, key):
    config = TlsServerConfig(certificate=certificates / certificate, key=certificates / key)
    with pytest.raises(ValueError, match=f"expected a PEM certificate in .*{certificate} with its key in") as caught:
        config.credentials()
    assert "BEGIN" not in str(caught.value)


def test_a_password_for_a_key_is_not_asked_for(certificates, tmp_path):

    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", certificates / "server.key", "-out", locked, "-passout", "pass:x"]
    subprocess.run(command, check=True)
    with pytest.raises(ValueError, match="with its key in"):
        TlsServerConfig(certificate=certificates / "server.pem", key=locked).credentials()


def test_authorities_that_are_none_are_refused(certificates):
    with pytest.raises(ValueError, match=r"server.key: expected PEM certificates of authorities"):
        TlsClientConfig(ca=certificates / "server.key").credentials()
    with pytest.raises(FileNotFoundError, match=r"nothing.pem"):
        TlsClientConfig(ca=certificates / "nothing.pem").credentials()


def test_a_configuration_says_where_a_secret_is_and_not_what_it_is(token_file):
    config = ChannelConfig(token_file=token_file)
    assert WORD not in repr(config) + str(config.document())


def test_the_files_of_a_setting_are_looked_for_beside_it(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text('tokens_file = "tokens.json"\n[tls]\ncertificate = "server.pem"\nkey = "/secret/server.key"\n')
    assert ServerConfig.parse(read_beside(path), source=str(path)) == ServerConfig(
        tokens_file=tmp_path / "tokens.json",
        tls=TlsServerConfig(certificate=tmp_path / "server.pem", key="/secret/server.key"),
    )


def test_a_file_that_settings_say_is_none_is_none(tmp_path):
    path = tmp_path / "server.json"
    path.write_text('{"tokens_file": null, "tls": {"certificate": "c", "key": "k", "client_ca": null}}')
    assert ServerConfig.parse(read_beside(path), source=str(path)) == ServerConfig(
        tls=TlsServerConfig(certificate=tmp_path / "c", key=tmp_path / "k")
    )
    path.write_text('{"tokens_file": 5}')
    with pytest.raises(ValueError, match=r"tokens_file: .*path"):
        ServerConfig.parse(read_beside(path), source=str(path))


@pytest.mark.parametrize("document", [f'{{"token": "{WORD}"}}', f'["{WORD}"]'])
def test_a_token_in_a_setting_is_refused_and_not_repeated(tmp_path, document):
    path = tmp_path / "channel.json"
    path.write_text(document)
    with pytest.raises(ValueError, match=r"channel.json: expected") as caught:
        read_beside(path)
    assert WORD not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o604])
def test_a_secret_that_everybody_can_read_is_told(certificates, token_file, tmp_path, caplog, mode):
    key = tmp_path / "server.key"
    key.write_bytes((certificates / "server.key").read_bytes())
    for path, used in (
        (key, TlsServerConfig(certificate=certificates / "server.pem", key=key).credentials),
        (key, TlsClientConfig(certificate=certificates / "server.pem", key=key).credentials),
        (token_file, lambda: read_token(token_file)),
    ):
        path.chmod(mode)
        caplog.clear()
        used()
        assert (f"{path}: a secret that every user" in caplog.text) == bool(mode & 0o004)
        assert WORD not in caplog.text


def test_an_expired_certificate_is_told_of_a_server_a_client_and_an_authority(certificates, caplog, monkeypatch):
    own = {"certificate": certificates / "server.pem", "key": certificates / "server.key"}
    for config, name in (
        (TlsServerConfig(**own), "server.pem"),
        (TlsClientConfig(**own), "server.pem"),
        (TlsServerConfig(**own, client_ca=certificates / "ca.pem"), "ca.pem"),
        (TlsClientConfig(ca=certificates / "ca.pem"), "ca.pem"),
    ):
        for days, said in ((0, ""), (3, "has expired: it was valid until"), (-3, "is not valid before")):
            caplog.clear()
            with monkeypatch.context() as patch:
                real = time.time()
                patch.setattr("splitleak.wire.security.time.time", lambda now=real + days * 86400: now)
                config.credentials()
            assert (f"{name}: the certificate {said}" in caplog.text) == bool(said)
