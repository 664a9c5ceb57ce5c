import json

import pytest

from splitleak.cloud.service import CloudConfig, cloud
from splitleak.wire.server.server import ServerConfig, serve


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cloud", "nothing"), "nothing"),
        (("cloud", "nothing", "--metrics", "9100"), "metrics"),
        (("edge", "nothing", "--cloud", "127.0.0.1:1", "--listen", "127.0.0.1:0"), "nothing"),
        (("cloud", "nothing", "--listen", "127.0.0.1:99999"), "expected HOST:PORT with a port of 0 to 65535, got '127"),
        (("tap", "--upstream", "cloud", "--capture", "c"), "expected HOST:PORT with a port of 1 to 65535, got 'cloud'"),
        (("link", "--upstream", ":99999"), "expected HOST:PORT with a port of 1 to 65535, got ':99999'"),
    ],
)
def test_a_service_that_cannot_start_is_one_line_on_standard_error(refusal, arguments, said):
    assert said in refusal(*arguments)


def test_a_taken_port_is_one_line_and_exit_status_1(call, tmp_path):
    with serve(lambda server: None, ServerConfig()) as port:
        code, _, err = call("tap", "--upstream", "h:1", "--capture", tmp_path / "c", "--listen", f"127.0.0.1:{port}")
    assert (code, err.count("\n")) == (1, 1)
    assert f"expected a free address to listen on, got 127.0.0.1:{port}" in err


def test_with_a_token_a_client_is_served_and_without_one_it_is_told_why_in_one_line(call, whole, images, tmp_path):
    made = call("token", "victims", "--tokens", tmp_path / "tokens.json", "--out", tmp_path / "victims.token", "--json")
    assert (made[0], json.loads(made[1])["client"]) == (0, "victims")
    (tmp_path / "channel.toml").write_text('token_file = "victims.token"')
    server = ServerConfig(tokens_file=tmp_path / "tokens.json")
    with cloud(CloudConfig(server=server), whole) as port:
        asked = (
            "predict",
            "--service",
            f"127.0.0.1:{port}",
            "--images",
            images / "victims.npz",
            "--out",
            tmp_path / "shared",
        )
        served = call(*asked, "--channel", tmp_path / "channel.toml", "--json")
        refused = call(*asked)
    assert (served[0], json.loads(served[1])["images"]) == (0, 40)
    assert (refused[0], refused[2].count("\n")) == (1, 1)
    assert "UNAUTHENTICATED: expected a known client's token" in refused[2]
    assert (
        "token would travel in clear"
        in call("predict", "--service", "h:1", *asked[3:], "--channel", tmp_path / "channel.toml")[2]
    )
