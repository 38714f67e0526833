"""The small parts of the programs: golden files, the client's command line, what serving needs."""

from __future__ import annotations

import gc
import io
import json
import socket
from pathlib import Path

import pytest

from multitask_serving import predict, serve
from multitask_serving.listening import AddressInUse, check_address
from multitask_serving.triton import probe
from multitask_serving.triton.probe import GoldenRequest, InvalidGolden, load_golden, sample_per_task


def test_golden_requests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    rows = [
        {"task": "a", "fields": {"text": "顾客"}, "label": "low", "nearTie": True},
        {"task": "b", "fields": {"text": ""}, "text": ""},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_golden(path) == [
        GoldenRequest("a", {"text": "顾客"}, "low", near_tie=True),
        GoldenRequest("b", {"text": ""}, ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "golden.jsonl cannot be read: No such file"),
        ("", "has no golden request"),
        ("{", "golden.jsonl:1 is not a golden request"),
        ('{"task": "a", "fields": {}, "label": "x"}\n{"task": "a", "fields": {}}', "golden.jsonl:2 is not a golden"),
        ("[]", "golden.jsonl:1 is not a golden request"),
    ],
)
def test_a_bad_golden_file_is_explained(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "golden.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidGolden) as caught:
        load_golden(path)
    assert message in str(caught.value)
    assert probe.main(["--address", "127.0.0.1:1", "--golden", str(path)]) == 2


def test_a_probe_of_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text('{"task": "a", "fields": {}, "label": "x"}\n')
    arguments = ["--address", "127.0.0.1:1", "--golden", str(path), "--timeout", "5"]
    assert probe.main(arguments) == 1
    assert "task 'a': expected 'x', got 'BackendUnavailable: 127.0.0.1:1: " in capsys.readouterr().err
    assert probe.main([*arguments, "--alive"]) == 1


@pytest.mark.parametrize(
    ("rows", "per_task", "kept"), [(10, 3, [0, 4, 8]), (3, 3, [0, 1, 2]), (200, 1, [0]), (1, 5, [0])]
)
def test_a_sample_is_evenly_spaced_over_each_tasks_requests(rows: int, per_task: int, kept: list[int]) -> None:
    golden = [GoldenRequest(task, {"n": str(n)}, "x") for n in range(rows) for task in ("a", "b")]
    sample = sample_per_task(golden, per_task)
    assert [int(one.fields["n"]) for one in sample if one.task == "a"] == kept
    assert len(sample) == 2 * len(kept)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["text=a=b"], {"text": "a=b"}),
        (["text=", "other= x"], {"text": "", "other": " x"}),
        (["text"], "'text' is not field=value; quote values with spaces"),
        (["=x"], "'=x' is not field=value"),
        (["a=1", "a=2"], "field 'a' is given twice"),
    ],
)
def test_fields_on_the_command_line(pairs: list[str], expected: dict[str, str] | str) -> None:
    if isinstance(expected, dict):
        assert predict.parse_fields(pairs) == expected
        return
    with pytest.raises(predict.BadArguments) as caught:
        predict.parse_fields(pairs)
    assert expected in str(caught.value)


def rows_of(path: Path, content: str, task: str | None) -> list[predict.InputRow]:
    path.write_text(content, encoding="utf-8")
    return list(predict.input_rows(predict.read_json_lines(str(path)), task))


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_rows_of_a_file(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "f"
    lines = ['{"text": "x", "n": 3, "ok": true, "none": null}', "", '{"text": "y", "task": "b"}']
    assert [(one.task, one.fields, one.location) for one in rows_of(path, mark + "\n".join(lines), "a")] == [
        ("a", {"text": "x", "n": "3", "ok": "true"}, f"{path}:1"),
        ("a", {"text": "y", "task": "b"}, f"{path}:3"),
    ]
    assert [one.task for one in rows_of(path, mark + lines[2], None)] == ["b"]


def test_standard_input_may_begin_with_a_byte_order_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('\ufeff{"text": "x"}\n'))
    assert list(predict.read_json_lines("-")) == [("-:1", {"text": "x"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "f:1 is not JSON"),
        ("[]", "f:1 is list; each line is a JSON object of fields"),
        ("{}", "f:1 names no task; give TASK, or a key 'task' in every row"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(predict.BadArguments) as caught:
        rows_of(tmp_path / "f", line, None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["urgency", "--ouput=json"], "error: unrecognized arguments: --ouput=json; "),
        (["urgency", "--output", "yaml"], "error: argument --output: invalid choice: 'yaml' "),
        (["urgency", "--timeout", "soon"], "error: argument --timeout: invalid float value: 'soon'; "),
        (["--file"], "error: argument --file: expected one argument; "),
    ],
)
def test_a_wrong_option_is_one_line_as_of_the_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("MTM_PROGRAM", "mtm predict")
    with pytest.raises(SystemExit) as caught:
        predict.main(arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.startswith(message)
    assert err.endswith("; `mtm predict --help` shows how\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["urgency", "text"], 2, "error: 'text' is not field=value"),
        (["--file", "/no/such/file"], 2, "error: /no/such/file cannot be read"),
        (["urgency", "text=x", "--address", "127.0.0.1:1"], 1, "error: 127.0.0.1:1: "),
        (["urgency", "--address", "127.0.0.1:1", "text=x"], 1, "error: 127.0.0.1:1: "),
        (["urgency", "text=\udcff"], 2, "error: field 'text' is not UTF-8"),
        (["urgency", "text=x", "--max-new-tokens", "-1"], 2, "error: --max-new-tokens is -1; it must be from 0 to"),
        *(
            (
                ["urgency", "text=x", "--address", address],
                2,
                f"error: --address '{address}' is not host:port with a port from 1 to 65535, for example",
            )
            for address in ("host:99999", "host:0", "host:http", "host:²", "host", ":8081")
        ),
        (["urgency", "text=x", "--seed", "-1"], 2, "error: --seed is -1; it must be from 0 to"),
    ],
)
def test_the_clients_errors(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(arguments) == status
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one\u2028two"}\r\n{"text": "three"}\n', encoding="utf-8")
    assert predict.main(["a", "--file", str(path), "--address", "127.0.0.1:1"]) == 1
    gc.collect()  # a lookup that was never awaited would warn now
    err = capsys.readouterr().err
    assert "2 of 2 rows were not answered" in err
    assert "Traceback" not in err


def test_an_unreachable_gateway_gets_a_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    predict.main(["--address", "127.0.0.1:1"])
    assert "Check the address; `mtm serve DIR` starts a gateway" in capsys.readouterr().err


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_server_for_ipv4_takes_the_port_of_all_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressInUse):
        check_address(f"[::]:{taken.getsockname()[1]}")


def test_the_ports_of_serve_are_looked_up_before_anything_slow_starts() -> None:
    serve.check_ports("127.0.0.1:0", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse) as caught:
            serve.check_ports("127.0.0.1:0", port)
        assert str(caught.value) == (
            f"cannot listen at 127.0.0.1:{port}: Address already in use; choose another with --triton-port, or leave it"
            " out for any free one"
        )
        with pytest.raises(AddressInUse, match=f"cannot listen at 127.0.0.1:{port}: .*; choose another with --address"):
            serve.check_ports(f"127.0.0.1:{port}", None)
    with pytest.raises(AddressInUse, match=f"port {port} is for the gateway, see --address; choose another with"):
        serve.check_ports(f"127.0.0.1:{port}", port)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("8081", "'8081' is not host:port"),
        ("127.0.0.1:http", "'127.0.0.1:http' is not host:port"),
        ("127.0.0.1:²", "'127.0.0.1:²' is not host:port"),
        ("127.0.0.1:99999", "'127.0.0.1:99999' is not host:port"),
        ("203.0.113.1:8081", "cannot listen at 203.0.113.1:8081"),
    ],
)
def test_an_address_that_cannot_be_used(address: str, message: str) -> None:
    with pytest.raises(AddressInUse) as caught:
        check_address(address)
    assert message in str(caught.value)


def test_an_address_in_use_is_an_error_before_anything_slow_starts() -> None:
    check_address("127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=f"cannot listen at {address}: .*choose another address"):
            check_address(address)


@pytest.mark.parametrize(
    ("parts", "arguments", "status", "message"),
    [
        ([], [], 2, "error: {folder} cannot be served: it lacks"),
        (["bundle.json"], ["--address", "127.0.0.1:99999"], 2, "error: '127.0.0.1:99999' is not host:port"),
        (["bundle.json"], ["--work", "{folder}/routes.yaml"], 1, "error: [Errno 20] Not a directory"),
    ],
    ids=["lacking parts", "a port out of range", "a work folder that is a file"],
)
def test_invalid_input_has_another_exit_status_than_a_failure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parts: list[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    (tmp_path / "bundle").mkdir()
    for part in parts:
        (tmp_path / "bundle" / part).touch()
        (tmp_path / "routes.yaml").touch()
        (tmp_path / "golden.jsonl").touch()
    formatted = [argument.format(folder=tmp_path) for argument in arguments]
    assert serve.main([str(tmp_path), "--address", "127.0.0.1:0", *formatted]) == status
    assert capsys.readouterr().err.startswith(message.format(folder=tmp_path))


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x"])
def test_an_invalid_port_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as caught:
        serve.main([str(tmp_path), f"--triton-port={port}"])
    assert caught.value.code == 2
    assert f"'{port}' is not a port; ports go from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("started_as", "usage"),
    [(None, "usage: python -m multitask_serving.predict "), ("mtm predict", "usage: mtm predict ")],
)
def test_help_names_the_command_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started_as: str | None, usage: str
) -> None:
    monkeypatch.delenv("MTM_PROGRAM", raising=False)
    if started_as:
        monkeypatch.setenv("MTM_PROGRAM", started_as)
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    assert capsys.readouterr().out.startswith(usage)


def test_a_folder_that_lacks_parts_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").touch()
    with pytest.raises(serve.NotServable, match=r"it lacks bundle/bundle\.json, golden\.jsonl\. Name a folder"):
        serve.check_folder(tmp_path)
