"""Gradients at a base model tell tasks that contradict each other from tasks that do not; noise tells nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from multitask_api.bundle import ForwardPath
from multitask_api.stage_io.affinity import AffinityResult, GradientsResult
from multitask_api.stage_io.manifest import StageFailure
from multitask_api.stage_io.parameters import AffinityParameters, GradientsParameters, TaskDefinition
from multitask_trainer.affinity.estimate import Affinities, estimate
from multitask_trainer.affinity.gradients import CHUNKS, Probe, ProbedRows, chunk_count, task_sketches
from multitask_trainer.affinity.grouping import find_groups
from multitask_trainer.affinity.sketch import SIZE, sketch
from multitask_trainer.data.rows import Row, write_rows
from multitask_trainer.errors import MicroBatchTooLarge
from multitask_trainer.training.batching.dataset import EncodedDataset
from support.training_fixtures import FRUITS, KIND, TOOLS, TrainingSuite, base_parameters, small_decoder


def table(pairs: Mapping[str, tuple[float, float]], tasks: str = "abcd") -> Affinities:
    """``{"ab": (value, half-width)}``; 0.5 ± 0.1 where nothing is given."""
    values, half_widths = np.eye(len(tasks)), np.zeros((len(tasks), len(tasks)))
    for (i, task), (j, other) in combinations(enumerate(tasks), 2):
        value, half_width = pairs.get(task + other, (0.5, 0.1))
        values[i, j] = values[j, i] = value
        half_widths[i, j] = half_widths[j, i] = half_width
    return Affinities(tuple(tasks), values, half_widths)


GROUPINGS = [
    ("nothing opposed is one group, under the name it has without affinity", {}, None, {"g": "abcd"}),
    ("an opposed pair is apart, the others are with those they help most", {"ac": (-0.5, 0.1), "cd": (0.9, 0.1)}, None,
     {"g": "ab", "g-c": "cd"}),
    ("a pair that may not be opposed is together", {"ac": (-0.5, 0.45)}, None, {"g": "abcd"}),
    ("so is one that is surely below zero, by little", {"ac": (-0.12, 0.05)}, None, {"g": "abcd"}),
    ("with a limit those are joined that hurt each other least",
     {"ab": (-0.9, 0.1), "ac": (-0.3, 0.1), "bc": (-0.5, 0.1)}, 2, {"g": "acd", "g-b": "b"}),
    ("three that oppose each other are three groups",
     {"ab": (-0.9, 0.1), "ac": (-0.3, 0.1), "bc": (-0.5, 0.1)}, None, {"g": "ad", "g-b": "b", "g-c": "c"}),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "pairs", "limit", "expected"), GROUPINGS, ids=[row[0] for row in GROUPINGS])
def test_groups(sentence: str, pairs: dict[str, tuple[float, float]], limit: int | None, expected: dict[str, str]):
    found = find_groups({"g": tuple("abcd")}, table(pairs), limit)
    assert found.groups == {name: tuple(tasks) for name, tasks in expected.items()}


def test_candidates_are_never_joined_and_the_limit_counts_them_all():
    pairs = {"ab": (-0.5, 0.1), "cd": (-0.6, 0.1), "ac": (0.99, 0.0)}
    candidates = {"labels": ("a", "b"), "texts": ("c", "d")}
    free = find_groups(candidates, table(pairs), None)
    assert free.groups == {"labels": ("a",), "labels-b": ("b",), "texts": ("c",), "texts-d": ("d",)}
    bound = find_groups(candidates, table(pairs), 3)
    assert bound.groups == {"labels": ("a", "b"), "texts": ("c",), "texts-d": ("d",)}
    assert bound.reasons == (
        "c and d are apart: affinity -0.60 ± 0.10",
        "a and b oppose each other (affinity -0.50 ± 0.10) and are together: maxGroups is 3",
    )


def test_a_group_keeps_its_name_when_another_one_gets_a_task():
    pairs = {"ab": (-0.5, 0.1), "ac": (-0.5, 0.1)}
    before = find_groups({"g": tuple("abc")}, table(pairs, "abc"), None).groups
    after = find_groups({"g": tuple("dabc")}, table({**pairs, "da": (0.9, 0.0)}, "dabc"), None).groups
    assert before == {"g": ("a",), "g-b": ("b", "c")}
    assert after["g-b"] == before["g-b"]


def test_a_name_that_would_be_too_long_is_cut_and_stays_unique():
    first, second = f"{'x' * 60}-1", f"{'x' * 60}-2"
    found = find_groups(
        {"classification": ("a", first, second)},
        Affinities(("a", first, second), -np.ones((3, 3)) + 2 * np.eye(3), np.zeros((3, 3))),
        None,
    ).groups
    assert len(found) == 3
    assert all(len(name) <= 63 for name in found)


def noise(tasks: int, *, seed: int, common: float = 0.0) -> dict[str, np.ndarray]:
    """Sketches without signal, or all with the same one."""
    generator = np.random.default_rng(seed)
    signal = common * generator.normal(size=256)
    return {f"t{n}": (signal + generator.normal(size=(CHUNKS, 256))).astype(np.float32) for n in range(tasks)}


def test_noise_alone_groups_nothing_differently():
    """In 100 suites of 6 tasks."""
    apart = 0
    for seed in range(100):
        tasks = noise(6, seed=seed)
        apart += len(find_groups({"g": tuple(tasks)}, estimate(tasks), None).groups) > 1
    assert apart <= 1


def test_intervals_contain_the_true_affinity_of_all_pairs_together():
    misses = 0
    for seed in range(100):
        found = estimate(noise(5, seed=seed))
        off = ~np.eye(5, dtype=bool)
        misses += bool((np.abs(found.values) > found.half_widths)[off].any())
    assert misses <= 11  # 5 are expected


def test_the_signal_s_length_is_found_below_the_noise():
    """Of two tasks with equal gradients under noise of seven times their length, the plain cosine is near 0.4."""
    values = []
    for seed in range(40):
        tasks = noise(2, seed=seed, common=0.15)
        values.append(estimate(tasks).values[0, 1])
        means = [sketches.mean(axis=0) for sketches in tasks.values()]
        plain = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
        assert plain < 0.75
    assert np.mean(values) == pytest.approx(0.9, abs=0.1)


def test_a_task_without_any_gradient_is_not_known_to_help_or_hurt():
    found = estimate({**noise(1, seed=1), "flat": np.zeros((CHUNKS, 256), dtype=np.float32)})
    assert (found.values[0, 1], found.half_widths[0, 1]) == (0.0, 1.0)


def test_a_sketch_keeps_inner_products():
    generator = torch.Generator().manual_seed(1)
    first, other = torch.randn(2, 200_000, generator=generator)
    second = 0.6 * first + 0.8 * other
    left, right = (sketch([("a.weight", value)], seed=3) for value in (first, second))
    exact = float(first @ second)
    assert float(left @ right) == pytest.approx(exact, abs=5 * float(first.norm() * second.norm()) / SIZE**0.5)
    assert sketch([("b.weight", first)], seed=3) @ right == pytest.approx(0, abs=0.1 * exact)


@pytest.mark.parametrize(("rows", "chunks"), [(4, 2), (33, 16), (256, 32)])
def test_few_rows_make_few_chunks(rows: int, chunks: int):
    assert chunk_count(rows) == chunks


# -- with a real model -------------------------------------------------------------------------------------------------


def renamed(name: str, **changes: object) -> TaskDefinition:
    return KIND.model_copy(update={"name": name, **changes})


TASKS = {name: renamed(name) for name in ("kind", "same", "opposite", "random", "chance")}


def planted(name: str, count: int) -> list[Row]:
    """``same`` says what ``kind`` says of other texts, ``opposite`` the contrary; the labels of the rest are dice."""
    generator = random.Random(name)
    rows = []
    for _ in range(count):
        noun = generator.choice(FRUITS + TOOLS)
        label = "fruit" if noun in FRUITS else "tool"
        if name == "opposite":
            label = {"fruit": "tool", "tool": "fruit"}[label]
        elif name in ("random", "chance"):
            label = generator.choice(["fruit", "tool"])
        rows.append(
            Row({"text": f"{generator.choice(['we have', 'they want'])} {generator.randrange(90)} {noun}"}, label)
        )
    return rows


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TrainingSuite:
    """The base, and the gradients of all `TASKS`."""
    suite = TrainingSuite(tmp_path_factory.mktemp("affinity"), train=40, others=10)
    assert suite.run_here(suite.order("base", base_parameters())) is None
    for name in TASKS:
        folder = suite.artifact(f"prepare/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder, "train", planted(name, 200))
        if name != "kind":
            manifest = suite.manifest("prepare/kind").model_copy(update={"stage": f"prepare/{name}"})
            (folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
        assert gradients(suite, name) is None
    return suite


def gradients(suite: TrainingSuite, name: str) -> StageFailure | None:
    parameters = GradientsParameters(task=TASKS[name], rows=192, max_length=48, seed=5)
    return suite.run_here(suite.order(f"gradients/{name}", parameters, inputs=[f"prepare/{name}"]))


def affinity(suite: TrainingSuite, tasks: Sequence[str], max_groups: int | None = None) -> AffinityResult:
    parameters = AffinityParameters(candidates={"classification": tuple(tasks)}, max_groups=max_groups)
    (suite.artifact("affinity") / "manifest.json").unlink(missing_ok=True)
    order = suite.order("affinity", parameters, inputs=[f"gradients/{name}" for name in tasks])
    assert suite.run_here(order) is None
    return AffinityResult.model_validate(suite.manifest("affinity").result)


def test_contradictory_tasks_are_put_apart_and_equal_ones_together(suite: TrainingSuite):
    found = affinity(suite, list(TASKS))
    value, half_width = found.between("kind", "opposite")
    assert value + half_width < -0.4
    value, half_width = found.between("kind", "same")
    assert value - half_width > 0.4
    group_of = {task: group for group, tasks in found.groups.items() for task in tasks}
    assert group_of["kind"] == group_of["same"] != group_of["opposite"]
    assert len(found.groups) == 2
    assert found.hurting("kind", list(TASKS)) == ("opposite",)


def test_random_labels_put_nothing_apart(suite: TrainingSuite):
    found = affinity(suite, ["kind", "random", "chance"])
    assert found.groups == {"classification": ("kind", "random", "chance")}
    for other in ("random", "chance"):
        value, half_width = found.between("kind", other)
        assert abs(value) <= half_width


def test_a_limit_of_one_group_keeps_contradictory_tasks_together_and_says_so(suite: TrainingSuite):
    found = affinity(suite, ["kind", "opposite"], max_groups=1)
    assert found.groups == {"classification": ("kind", "opposite")}
    assert "maxGroups is 1" in found.reasons[0]


def test_the_gradients_of_a_task_are_the_same_whenever_they_are_taken(suite: TrainingSuite, tmp_path: Path):
    path = suite.artifact("gradients/kind") / "sketches.npy"
    before, manifest = np.load(path), suite.manifest("gradients/kind")
    (suite.artifact("gradients/kind") / "manifest.json").unlink()
    assert gradients(suite, "kind") is None
    np.testing.assert_array_equal(np.load(path), before)
    assert suite.manifest("gradients/kind").outputs == manifest.outputs
    result = GradientsResult.model_validate(manifest.result)
    assert (result.rows, result.chunks) == (192, CHUNKS)


def test_too_few_rows_are_an_error_that_says_what_to_do(suite: TrainingSuite):
    parameters = GradientsParameters(task=TASKS["kind"], rows=3, max_length=48, seed=5)
    failure = suite.run_here(suite.order("gradients/few", parameters, inputs=["prepare/kind"]))
    assert failure is not None
    assert failure.kind == "UserError"
    assert failure.message.startswith("task kind: 3 training rows are too few")
    assert "filtering.strategy" in failure.message


def test_the_result_is_json_of_each_pair_once(suite: TrainingSuite):
    found = affinity(suite, ["kind", "same"])
    text = json.loads(found.model_dump_json(by_alias=True))
    assert [len(row) for row in text["affinity"]] == [0, 1]


# -- passes -----------------------------------------------------------------------------------------------------------


def probed(rows: int = 24) -> ProbedRows:
    generator = np.random.default_rng(7)
    prompts = [generator.integers(0, 50, length).tolist() for length in generator.integers(4, 20, rows)]
    answers = [[51 + index % 3] for index in range(rows)]
    dataset = EncodedDataset.of(prompts, answers)
    return ProbedRows(dataset, list(range(rows)), [str(answer) for answer in answers])


def sketches_of(budget: int, *, mixed: bool = False, limit: int | None = None) -> tuple[np.ndarray, list[int]]:
    """With the tokens of each pass; more than ``limit`` of them do not fit."""
    model = small_decoder().to(torch.bfloat16 if mixed else torch.float32)
    probe, sizes = Probe.of(model, (), seed=3), []

    def note(_module, _arguments, keywords):
        sizes.append(keywords["input_ids"].numel())
        if limit is not None and sizes[-1] > limit:
            raise torch.OutOfMemoryError

    probe.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    found = task_sketches(probe, probed(), seed=3, path=ForwardPath(), token_budget=budget, mixed=mixed)
    return found, sizes


def test_passes_that_do_not_fit_are_halved_and_change_nothing():
    whole, sizes = sketches_of(1000)
    halved, tried = sketches_of(1000, limit=max(sizes) - 1)
    assert max(sizes) > max(size for size in tried if size < max(sizes))
    np.testing.assert_allclose(halved, whole, atol=1e-6 + 1e-4 * np.abs(whole).max())
    with pytest.raises(MicroBatchTooLarge, match="rows do not fit into the GPU's memory"):
        sketches_of(1000, limit=3)


def test_a_base_in_bf16_gives_the_same_directions():
    whole, _ = sketches_of(1000)
    half, _ = sketches_of(1000, mixed=True)
    for one, other in zip(whole, half, strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99
