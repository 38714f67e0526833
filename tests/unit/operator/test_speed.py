"""How fast this machine trains, as plans expect it."""

from __future__ import annotations

import pytest

from multitask_operator.local import speed
from multitask_operator.planner.stage_costs import Speed
from support.graph_builders import model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "multitask/speeds.json"


def test_a_measured_speed_serves_every_plan_with_the_same_base_method_and_device():
    full, lora = model(tuning={"method": "Full"}), model(tuning={"method": "LoRA"})
    speed.remember_speeds(full, "cpu", {"Full": Speed(1234.0, "measured")})
    assert speed.expected_speed(full, "cpu", None) == Speed(1234.0, "measured in an earlier run on this machine")
    assert speed.expected_speed(lora, "cpu", None) is None
    assert speed.expected_speed(full, "cuda", 1_000_000) is None
    speed.remember_speeds(full, "cpu", {"LoRA": Speed(99.0, "measured")})
    assert [speed.expected_speed(item, "cpu", None).tokens_per_second for item in (full, lora)] == [1234.0, 99.0]


@pytest.mark.parametrize(("method", "tokens_per_second"), [("Full", 1000), ("LoRA", 1500)])
def test_on_a_cpu_the_first_plan_has_a_rough_speed(method, tokens_per_second, monkeypatch):
    monkeypatch.setattr(speed, "_flops_per_second", lambda: 6e9)
    rough = speed.expected_speed(model(tuning={"method": method}), "cpu", 1_000_000)
    assert rough.source == "rough, from 1.0 M weights and 6 GFLOP/s"
    assert round(rough.tokens_per_second) == tokens_per_second


def test_the_speed_of_a_matrix_product_is_measured():
    assert 1e8 < speed._flops_per_second() < 1e13


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', "{"])
def test_a_broken_cache_is_no_cache(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert speed.expected_speed(model(), "cpu", None) is None
    speed.remember_speeds(model(), "cpu", {"Full": Speed(5.0, "measured")})
    assert speed.expected_speed(model(), "cpu", None).tokens_per_second == 5.0


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    speed.remember_speeds(model(), "cpu", {"Full": Speed(5.0, "measured")})
