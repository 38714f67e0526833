"""Stage ``base``: the tokenizer and weights that every training starts from, in ``model/`` (fp32).

Once made, the base is frozen: a task added later changes neither. With ``pretraining`` it has seen the tasks' train
text (never validation or test) and the corpus.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.parameters import BaseParameters
from multitask_api.stage_io.results import BaseResult
from multitask_serving.engine.prompt.compiling import compile_prompt, prompt_format_of
from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.checks.tokens import check_prompt
from multitask_trainer.base_model.loading import (
    check_max_length,
    load_base,
    load_tokenizer,
    read_forward_path,
    write_forward_path,
    write_prompt_format,
)
from multitask_trainer.base_model.model_shape import shape_of
from multitask_trainer.base_model.sources import BaseModelSource, make_base
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import PreparedSplit
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.packages import check_quantization
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest, drop_library_versions
from multitask_trainer.training.batching.corpus import unused_text_warning
from multitask_trainer.training.batching.dataset import EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache, prepared_split
from multitask_trainer.training.checkpoint import Progress
from multitask_trainer.training.pretraining import corpus_texts, pretrain
from multitask_trainer.tuning import tuning_method

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def work(stage: StageContext) -> StageOutcome:
    """Get or make the base, pre-train it if asked, and leave it in ``model/``."""
    parameters = stage.parameters(BaseParameters)
    check_quantization(parameters.optimisation.optimizer, parameters.tuning)
    locations = DataLocations.of(stage.order.data_root, os.environ)
    rows = {task.name: prepared_split(stage, task.name, "train") for task in parameters.tasks}
    start, notices = _starting_base(stage, parameters, rows, locations)
    checks, path = check_base(start, parameters.optimisation.precision), read_forward_path(start)
    tokenizer = load_tokenizer(start)
    prompt_format = prompt_format_of(tokenizer)

    def load(on_meta: bool) -> PreTrainedModel:
        model = load_base(start, on_meta=on_meta)
        check_max_length(model, parameters.optimisation.max_length)
        for task in parameters.tasks:
            prompt = compile_prompt(task.prompt, tokenizer, prompt_format, chat=False)
            check_prompt(model, tokenizer, task.name, *prompt)
        return model

    warnings = list(checks.warnings)
    if parameters.pretraining is not None:
        datasets = (
            _encode_tasks(parameters, rows, RowCache.of(stage, tokenizer), tokenizer, prompt_format)
            if parameters.pretraining.tasks_text
            else []
        )
        warnings += [
            f"{task.name}: {dataset.truncated} rows are longer than training.maxLength"
            for task, dataset in zip(parameters.tasks, datasets, strict=False)
            if dataset.truncated
        ]
        model, progress = pretrain(
            stage,
            parameters,
            load,
            tokenizer,
            datasets=datasets,
            locations=locations,
            max_steps=parameters.pretraining.max_steps,
            path=path,
        )
        warnings += filter(
            None, [unused_text_warning(stage.work_folder / "tokens", parameters.optimisation.max_length)]
        )
    else:
        model, progress = load(False), Progress()
    stage.distributed.exit_workers()
    target = stage.artifact_folder / "model"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    drop_library_versions(target)
    write_forward_path(path, target)
    write_prompt_format(prompt_format, target)
    last = next((point.train_loss for point in reversed(progress.curve)), None)
    result = BaseResult(
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        tasks=tuple(rows) if _has_seen_tasks(parameters) else (),
        steps=progress.step,
        tokens=progress.tokens,
        first_loss=progress.first_loss,
        last_loss=last,
        tokens_per_second=round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
        warnings=(*notices, *warnings),
        forward_path=path,
        forward_path_reason=checks.reason,
        prompt_format=prompt_format,
        shape=shape_of(model),
    )
    return StageOutcome(result, {"model": content_digest(stage.artifact_folder, ["model"])})


def _starting_base(
    stage: StageContext, parameters: BaseParameters, rows: dict[str, PreparedSplit], locations: DataLocations
) -> tuple[Path, list[str]]:
    """The base before pre-training, made and tested once: a restarted stage finds it in its work folder.

    And what the tuning method says about it, in the process that tested it.
    """
    folder = stage.work_folder / "start"
    notices: list[str] = []

    def make() -> None:
        if not folder.exists():
            fetch()
        stage.reporter.report("testing the base")
        precision = parameters.optimisation.precision
        check_base(folder, precision)
        if parameters.tuning is not None:
            notices.extend(_tuning_notices(parameters, parameters.tuning, folder))

    def fetch() -> None:
        stage.reporter.report("making the base")
        unfinished = stage.scratch_folder / "start"
        source = BaseModelSource(
            parameters.uri, parameters.revision, parameters.optimisation.seed, locations, parameters.gguf_file
        )
        make_base(source, unfinished, tasks=parameters.tasks, rows=rows, corpus=corpus_texts(parameters, locations))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another pod was quicker, and the base is the same
                raise

    stage.run_once("start", make)
    return folder, notices


def _tuning_notices(parameters: BaseParameters, tuning: Tuning, base: Path) -> list[str]:
    """What is not trained, with the settings of the tasks' own training and with those of groups of several tasks."""
    names = [task.name for task in parameters.tasks]
    notices: list[str] = []
    for settings in [tuning.for_baseline(), *([tuning] if tuning.has_experts else [])]:
        notices += tuning_method(settings, names).check(lambda: load_base(base), parameters.optimisation.precision)
    return list(dict.fromkeys(notices))


def _encode_tasks(
    parameters: BaseParameters,
    rows: dict[str, PreparedSplit],
    cache: RowCache,
    tokenizer: PreTrainedTokenizerFast,
    prompt_format: PromptFormat,
) -> list[EncodedDataset]:
    encoders = [
        TaskEncoder.of(
            task,
            tokenizer,
            max_length=parameters.optimisation.max_length,
            chat_template=False,
            prompt_format=prompt_format,
        )
        for task in parameters.tasks
    ]
    return [cache.encode(encoder, rows[encoder.task.name]) for encoder in encoders]


def _has_seen_tasks(parameters: BaseParameters) -> bool:
    """A builtin base's tokenizer is made from the tasks' text, and pre-training may use it."""
    pretraining = parameters.pretraining
    return parameters.uri.startswith("builtin://") or (pretraining is not None and pretraining.tasks_text)


if __name__ == "__main__":
    raise SystemExit(main(work))
