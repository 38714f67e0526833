"""The settings of the gateway's program."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_serving.gateway.cluster.settings import read_settings

# the sentence, options, environment, the field, its value
READ = [
    ("the default", [], {}, "listen", "[::]:8081"),
    ("of the state", [], {}, "state_listen", "[::]:9090"),
    ("a variable", [], {"MULTITASK_GATEWAY_LISTEN": "0.0.0.0:9000"}, "listen", "0.0.0.0:9000"),
    ("an option wins", ["--drain-s", "7"], {"MULTITASK_DRAIN_SECONDS": "9"}, "drain_s", 7.0),
    ("no namespaces: all", [], {"MULTITASK_NAMESPACES": ""}, "namespaces", ()),
    ("several", [], {"MULTITASK_NAMESPACES": "a, b,"}, "namespaces", ("a", "b")),
    ("the pod's name", [], {"POD_NAME": "gateway-7"}, "name", "gateway-7"),
    ("connections without an age", ["--max-connection-age-s", "0"], {}, "max_connection_age_s", 0.0),
    ("no file of callers", [], {}, "callers_file", None),
    ("a file of callers", [], {"MULTITASK_CALLERS_FILE": "/etc/c.yaml"}, "callers_file", Path("/etc/c.yaml")),
    ("tokens are not reviewed", [], {}, "review_tokens", False),
    ("tokens are reviewed", [], {"MULTITASK_REVIEW_TOKENS": "true"}, "review_tokens", True),
    ("no labels", [], {}, "label_key_file", None),
    ("labels", [], {"MULTITASK_LABEL_KEY_FILE": "/etc/key"}, "label_key_file", Path("/etc/key")),
    ("no second port", [], {}, "mutual_tls_listen", None),
]


@pytest.mark.parametrize(
    ("arguments", "environ", "name", "value"), [row[1:] for row in READ], ids=[row[0] for row in READ]
)
def test_a_setting_is_read(arguments, environ, name, value):
    assert getattr(read_settings(arguments, environ), name) == value


WRONG = [
    ({"MULTITASK_DRAIN_SECONDS": "soon"}, "--drain-s: 'soon' is not a number of seconds from 0 to 86400"),
    ({"MULTITASK_DRAIN_SECONDS": "-1"}, "--drain-s: '-1' is not a number of seconds"),
    ({"MULTITASK_GATEWAY_LISTEN": "8081"}, "--listen: '8081' is not host:port"),
    ({"MULTITASK_REVIEW_TOKENS": "yes"}, "--review-tokens: 'yes' is neither true nor false"),
]


@pytest.mark.parametrize(("environ", "message"), WRONG)
def test_what_cannot_be_read_is_said_in_a_line(environ, message, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        read_settings([], environ)
    assert ended.value.code == 2
    out = capsys.readouterr().err
    assert message in out
    assert len(out.splitlines()) == 1
