"""Answers batches of requests, with any mix of tasks, adapters and models; results are in the requests' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from multitask_api.bundle import Bundle, ServedTask
from multitask_serving.engine.batching import AdapterContext
from multitask_serving.engine.classification.scoring import LogProbs, label_log_probs
from multitask_serving.engine.errors import EmptyPrompt, InvalidBundle, UnknownTask, WrongTaskType
from multitask_serving.engine.generation.decoding import GenerationInput, Step, generate_rows
from multitask_serving.engine.generation.sampling import GREEDY, Sampling
from multitask_serving.engine.model.float32 import use_tf32
from multitask_serving.engine.model.loading import LoadedModel, load_model
from multitask_serving.engine.prompt.encoding import EncodedPrompt, encode_prompts, field_texts
from multitask_serving.engine.prompt.template import answer_separator
from multitask_serving.engine.task import EngineTask
from multitask_serving.engine.types import Classification, Generation, PromptLength, Request


class Engine:
    """The models and tasks of one bundle. Not thread-safe: each forward pass sets the active adapters."""

    def __init__(self, bundle: Bundle, models: Mapping[str, LoadedModel], tasks: Collection[str] | None = None) -> None:
        self.bundle = bundle
        self._models = models
        self._tasks = {task.name: EngineTask.of(task) for task in bundle.tasks if tasks is None or task.name in tasks}
        for name in tasks or ():
            self.task(name)
        for task in self._tasks.values():
            self._check_model(task.served)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        tasks: Collection[str] | None = None,
    ) -> Engine:
        """Load the bundle in ``folder``, or only the models and adapters that ``tasks`` need.

        ``threads`` sets torch's number of threads for this process, and fp32 is computed in full (`float32`). Raises
        `InvalidBundle`, or `UnknownTask` if the bundle does not have one of ``tasks``.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        use_tf32(enabled=False)
        bundle = read_bundle(folder)
        names = [task.name for task in bundle.tasks]
        for name in tasks or ():
            if name not in names:
                raise UnknownTask(name, names)
        selected = [task for task in bundle.tasks if tasks is None or task.name in tasks]
        models = {
            served.name: load_model(
                folder,
                served,
                device=device,
                adapters={task.adapter for task in selected if task.model == served.name and task.adapter is not None},
            )
            for served in bundle.models
            if any(task.model == served.name for task in selected)
        }
        return cls(bundle, models, tasks)

    @classmethod
    def from_parts(cls, bundle: Bundle, models: Mapping[str, LoadedModel]) -> Engine:
        """An engine over models in memory (`LoadedModel.of`), which are keyed by their names in the bundle."""
        return cls(bundle, models)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks served."""
        return tuple(self._tasks)

    def task(self, name: str) -> ServedTask:
        """A task's description. Raises `UnknownTask`."""
        return self._get_task(name).served

    def check(self, request: Request) -> ServedTask:
        """The request's task; raises the `UserError` that answering the request would raise, without running the model.

        One invalid request fails a whole call of `classify` or `generate`, so a server checks each request first.
        """
        task = self._get_task(request.task).served
        texts = field_texts(task.pieces, request.fields)
        if not any(texts) and not task.bos and not any(piece.ids for piece in task.pieces):
            raise EmptyPrompt("the prompt is empty: no template text and only empty fields. Send some text")
        return task

    def prompt_lengths(self, requests: Sequence[Request]) -> list[PromptLength]:
        """The length of each request's prompt. Raises `UserError`."""
        tasks = [self._get_task(request.task) for request in requests]
        lengths = [PromptLength(0, truncated=False)] * len(requests)
        for model, rows in self._rows_by_model(tasks).items():
            prompts = _encode(self._models[model], [tasks[row] for row in rows], [requests[row] for row in rows])
            for row, prompt in zip(rows, prompts, strict=True):
                lengths[row] = PromptLength(len(prompt.ids), prompt.truncated)
        return lengths

    def batches(self, task: str, prompt_lengths: Sequence[int]) -> list[list[int]]:
        """The rows that are computed together when requests of ``task`` are answered; each row is in one batch.

        A batch depends on the lengths of the prompts, in tokens. A call for the rows of some batches, in their order,
        forms the same batches again, so these rows get the same answers to the last bit.
        """
        found = self._get_task(task)
        loaded = self._models[found.served.model]
        return found.batches(prompt_lengths, loaded.path, next(loaded.model.parameters()).device)

    def classify(
        self, requests: Sequence[Request], *, on_batch: Callable[[int], None] | None = None
    ) -> list[Classification]:
        """Each request's label, with the scores of all labels. Raises `UserError` if any request is invalid.

        ``on_batch`` is called after each pass with the number of requests that it answered.
        """
        tasks = [self._get_task(request.task) for request in requests]
        tries = [task.label_trie() for task in tasks]
        results: list[Classification | None] = [None] * len(requests)
        for model, rows in self._rows_by_model(tasks).items():
            loaded = self._models[model]
            prompts = _encode(loaded, [tasks[row] for row in rows], [requests[row] for row in rows])
            label_scores = label_log_probs(
                loaded.model,
                [prompt.ids for prompt in prompts],
                [tries[row] for row in rows],
                path=loaded.path,
                adapter_context=_adapter_context(loaded, [tasks[row] for row in rows]),
                on_batch=on_batch,
            )
            for row, prompt, log_probs in zip(rows, prompts, label_scores, strict=True):
                results[row] = _classification(tries[row].labels, log_probs, truncated=prompt.truncated)
        return [result for result in results if result is not None]

    def generate(
        self, requests: Sequence[Request], *, sampling: Sampling | Sequence[Sampling] = GREEDY
    ) -> Iterator[Step]:
        """Stream the texts: one `Step` per token; ``step.row`` is the request's index.

        Models take turns, one decoding step each. ``sampling`` is one for all requests, or one per request. Every
        request is checked and encoded before this returns; raises `UserError` if any is invalid.
        """
        settings = [sampling] * len(requests) if isinstance(sampling, Sampling) else list(sampling)
        streams = []
        tasks = [self._get_task(request.task) for request in requests]
        for model, rows in self._rows_by_model(tasks).items():
            loaded, model_tasks = self._models[model], [tasks[row] for row in rows]
            prompts = _encode(loaded, model_tasks, [requests[row] for row in rows])
            inputs = [
                _generation_input(task, prompt, settings[row])
                for row, task, prompt in zip(rows, model_tasks, prompts, strict=True)
            ]
            streams.append(
                (
                    rows,
                    generate_rows(
                        loaded.model,
                        loaded.tokenizer,
                        inputs,
                        path=loaded.path,
                        adapter_context=_adapter_context(loaded, model_tasks),
                    ),
                )
            )
        return _round_robin(streams)

    def generate_all(
        self, requests: Sequence[Request], *, sampling: Sampling | Sequence[Sampling] = GREEDY
    ) -> list[Generation]:
        """The complete texts: the steps of `generate`, joined. Raises `UserError` if any request is invalid."""
        steps: list[list[Step]] = [[] for _ in requests]
        for step in self.generate(requests, sampling=sampling):
            steps[step.row].append(step)
        return [Generation.of(row) for row in steps]

    def _get_task(self, name: str) -> EngineTask:
        task = self._tasks.get(name)
        if task is None:
            raise UnknownTask(name, self._tasks)
        return task

    def _rows_by_model(self, tasks: Sequence[EngineTask]) -> dict[str, list[int]]:
        """Each model's rows, those without an adapter first, then those of one adapter after the other."""
        groups: dict[str, list[int]] = {}
        for row, task in enumerate(tasks):
            groups.setdefault(task.served.model, []).append(row)
        return {
            model: sorted(rows, key=lambda row: self._adapter_number(tasks[row].served))
            for model, rows in groups.items()
        }

    def _adapter_number(self, task: ServedTask) -> int:
        return self._models[task.model].adapter_numbers[task.adapter]

    def _check_model(self, task: ServedTask) -> None:
        model = self._models.get(task.model)
        if model is None or task.adapter not in model.adapter_numbers:
            needed = f"model {task.model!r}" + ("" if task.adapter is None else f" with adapter {task.adapter!r}")
            raise InvalidBundle(f"task {task.name!r} needs {needed}, which the bundle does not have")


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle description ``folder/bundle.json``. Raises `InvalidBundle`."""
    path = folder / "bundle.json"
    try:
        return Bundle.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidBundle(
            f"{path} cannot be read: {error.strerror}. Give a folder that `mtm run` exported"
        ) from error
    except ValidationError as error:
        raise InvalidBundle(f"{path} is not a bundle of this version: {error}") from error


def _round_robin(streams: Sequence[tuple[Sequence[int], Iterator[list[Step]]]]) -> Iterator[Step]:
    """One decoding step of each stream in turn. Each stream comes with the request indices of its rows."""
    running = deque(streams)
    while running:
        rows, stream = running.popleft()
        steps = next(stream, None)
        if steps is None:
            continue
        running.append((rows, stream))
        for step in steps:
            yield Step(rows[step.row], step.text_delta, step.token, step.margin, step.finish_reason)


def _encode(loaded: LoadedModel, tasks: Sequence[EngineTask], requests: Sequence[Request]) -> list[EncodedPrompt]:
    return encode_prompts(
        [
            (task.served.pieces, request.fields, task.max_prompt_tokens, task.served.bos)
            for task, request in zip(tasks, requests, strict=True)
        ],
        loaded.tokenizer,
    )


def _adapter_context(loaded: LoadedModel, tasks: Sequence[EngineTask]) -> AdapterContext:
    return lambda rows: loaded.use_adapters([tasks[row].served.adapter for row in rows])


def _generation_input(task: EngineTask, prompt: EncodedPrompt, sampling: Sampling) -> GenerationInput:
    settings = task.served.generation
    if settings is None:
        raise WrongTaskType(task.served.name, task.served.type)
    limit = settings.max_new_tokens
    return GenerationInput(
        input_ids=prompt.ids,
        eos=task.served.eos,
        max_new_tokens=limit if sampling.max_new_tokens is None else min(limit, sampling.max_new_tokens),
        stop=(*settings.stop, *sampling.stop),
        separator=answer_separator(task.served.pieces),
        sampling=sampling,
    )


def _classification(labels: Sequence[str], log_probs: LogProbs, *, truncated: bool) -> Classification:
    best = int(log_probs.argmax())
    if not np.isfinite(log_probs[best]):
        raise InvalidBundle("the model gives no finite score, so its weights are broken. Train or export it again")
    weights = np.exp(log_probs - log_probs[best])
    second, first = np.partition(log_probs, -2)[-2:] if len(labels) > 1 else (-np.inf, log_probs[best])
    return Classification(
        label=labels[best],
        scores=dict(zip(labels, (weights / weights.sum()).tolist(), strict=True)),
        log_probs=dict(zip(labels, log_probs.tolist(), strict=True)),
        margin=float(first - second),
        truncated=truncated,
    )
