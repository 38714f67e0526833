"""Stage ``base``: the tokenizer and weights that every training starts from, in ``model/`` (fp32).

Once made, the base is frozen: a task added later changes neither. With ``pretraining`` it has seen the tasks' train
text (never validation or test) and the corpus.
"""

from __future__ import annotations

import os
from pathlib import Path

from multitask_api.stage_io.parameters import BaseParameters
from multitask_api.stage_io.results import BaseResult
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.bundling import load_tokenizer
from multitask_trainer.data.places import Places
from multitask_trainer.data.rows import Row, read_rows
from multitask_trainer.models import check_length, load_base
from multitask_trainer.stage import Outcome, Stage, run
from multitask_trainer.storage import content_digest, drop_versions
from multitask_trainer.training.bases import Source, make_base
from multitask_trainer.training.checkpoint import Progress
from multitask_trainer.training.corpus import unused_text
from multitask_trainer.training.dataset import Examples, TaskEncoder
from multitask_trainer.training.pretraining import corpus_texts, pretrain


def work(stage: Stage) -> Outcome:
    """Get or make the base, pre-train it if asked, and leave it in ``model/``."""
    parameters = stage.parameters(BaseParameters)
    places = Places.of(stage.order.data_root, os.environ)
    rows = {task.name: read_rows(stage.input(f"prepare/{task.name}"), "train") for task in parameters.tasks}
    start = _start(stage, parameters, rows, places)
    model, tokenizer = load_base(start), load_tokenizer(start)
    Backbone.of(model).check(model)
    check_length(model, parameters.optimisation.max_length)
    progress, warnings = Progress(), []
    if parameters.pretraining is not None:
        examples = _examples(parameters, rows, start) if parameters.pretraining.tasks_text else []
        warnings = [
            f"{task.name}: {found.truncated} rows are longer than training.maxLength"
            for task, found in zip(parameters.tasks, examples, strict=False)
            if found.truncated
        ]
        progress = pretrain(
            stage,
            parameters,
            model,
            tokenizer,
            examples=examples,
            places=places,
            max_steps=parameters.pretraining.max_steps,
        )
        warnings += filter(None, [unused_text(stage.work / "tokens", parameters.optimisation.max_length)])
    stage.ranks.dismiss_others()
    target = stage.folder / "model"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    drop_versions(target)
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
        warnings=tuple(warnings),
    )
    return Outcome(result, {"model": content_digest(stage.folder, ["model"])})


def _start(stage: Stage, parameters: BaseParameters, rows: dict[str, list[Row]], places: Places) -> Path:
    """The base before pre-training, made once: a restarted stage finds it in its work folder."""
    folder = stage.work / "start"

    def make() -> None:
        if folder.exists():
            return
        stage.reporter.report("making the base")
        unfinished = stage.scratch / "start"
        source = Source(parameters.uri, parameters.revision, parameters.optimisation.seed, places)
        make_base(source, unfinished, tasks=parameters.tasks, rows=rows, corpus=corpus_texts(parameters, places))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another pod was quicker, and the base is the same
                raise

    stage.once("start", make)
    return folder


def _examples(parameters: BaseParameters, rows: dict[str, list[Row]], start: Path) -> list[Examples]:
    tokenizer = load_tokenizer(start)
    max_length = parameters.optimisation.max_length
    return [
        TaskEncoder.of(task, tokenizer, max_length=max_length, chat_template=False).encode(rows[task.name])
        for task in parameters.tasks
    ]


def _has_seen_tasks(parameters: BaseParameters) -> bool:
    """A builtin base's tokenizer is made from the tasks' text, and pre-training may use it."""
    pretraining = parameters.pretraining
    return parameters.uri.startswith("builtin://") or (pretraining is not None and pretraining.tasks_text)


if __name__ == "__main__":
    raise SystemExit(run(work))
