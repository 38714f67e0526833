"""Continual pre-training of a base on the domain's text: next-token loss over packed blocks of ``maxLength`` tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.fitting import CPU_TEXT_TOKENS, MOST_TOKENS
from multitask_api.stage_io.parameters import BaseParameters
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.reading import read_texts
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.training.accelerator import check_batch_rows, make_accelerator
from multitask_trainer.training.batching.corpus import TextBatches, write_corpus, write_task_text
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.choice import load_parallel
from multitask_trainer.tuning.full import Full

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def corpus_texts(parameters: BaseParameters, locations: DataLocations) -> list[Iterable[str]]:
    """One stream of texts for each corpus source; nothing is read yet."""
    sources = parameters.pretraining.corpus if parameters.pretraining else ()
    return [read_texts(source.uri, locations) for source in sources]


def pretrain(
    stage: StageContext,
    parameters: BaseParameters,
    load: Callable[[bool], PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    *,
    datasets: Sequence[EncodedDataset],
    locations: DataLocations,
    max_steps: int,
    path: ForwardPath,
) -> tuple[PreTrainedModel, Progress]:
    """The trained base, whole in the main process; resumes from the last checkpoint in the stage's work folder.

    ``load`` gives the base; with True on the meta device, for processes that get their part from the first one.
    """
    optimisation = parameters.optimisation
    accelerator = make_accelerator(
        device=stage.device,
        threads=stage.order.threads,
        precision=optimisation.precision,
    )
    check_batch_rows(optimisation.batch_rows, accelerator)
    method = Full()
    model, parallelism = load_parallel(
        lambda on_meta: method.prepare(load(on_meta)),
        stage.order.sharding,
        method,
        path,
        accelerator,
        optimizer=optimisation.optimizer,
    )
    folder = stage.work_folder / "tokens"
    stage.reporter.report("tokenising")

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if datasets:
            write_task_text(folder, datasets)
        need = max_steps * optimisation.batch_rows * optimisation.max_length
        write_corpus(folder, corpus_texts(parameters, locations), tokenizer, need)

    stage.run_once("tokens", write)
    batches = TextBatches.of(
        folder,
        length=optimisation.max_length,
        batch_rows=optimisation.batch_rows,
        seed=optimisation.seed,
        token_budget=CPU_TEXT_TOKENS if accelerator.device.type == "cpu" else MOST_TOKENS,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    settings = TrainingSettings(
        max_steps,
        optimisation,
        stage.order.gradient_checkpointing or "Auto",
        betas=(0.9, 0.95),
        weight_decay=0.1,
    )
    loop = TrainingLoop(
        OptimizerStep(model, settings, method=method, accelerator=accelerator, path=path, parallelism=parallelism),
        batches,
        settings,
        accelerator=accelerator,
        store=CheckpointStore(stage.work_folder / "checkpoint", stage.order.checkpoint),
        reporter=stage.reporter,
    )
    progress = loop.run()
    return cast("PreTrainedModel", model), progress
