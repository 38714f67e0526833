"""The other side: HF Trainer + PEFT, as its users run it, with our loss and our order of rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from multitask_trainer.training.optimizer import MicroBatchTooLarge
from support.training_speed.bases import SpeedRows
from support.training_speed.combination import (
    LEARNING_RATE,
    Combination,
    Measured,
    PeakMemory,
    allocated,
    out_of_memory,
    synchronise,
    trained_weights,
)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What `tuning_method` adapts of these bases."""


class RowMeanLoss:
    """``compute_loss_func``: mean over a row's targets, sum over rows, by the rows of the global batch."""

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self.total: Tensor | float = 0.0

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: object = None) -> Tensor:
        del num_items_in_batch
        logits, targets = outputs.logits.float()[:, :-1], labels[:, 1:].to(outputs.logits.device)
        losses = cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
        loss = (losses.sum(1) / (targets != -100).sum(1)).sum() / self._batch_rows
        self.total = self.total + loss.detach()
        return loss


def run_trainer(
    combination: Combination,
    rows: SpeedRows,
    measured: Measured,
    *,
    between: Callable[[int, float], bool],
    others: float,
    folder: str,
) -> None:
    """HF Trainer over ``rows``. After each step, ``between`` gets its number and the MiB that this side has allocated
    on the GPU; True ends the training. ``others`` MiB belong to our side, which is idle meanwhile."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import (
        DataCollatorForSeq2Seq,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

    class InOrder(Trainer):
        """Takes the rows as they come, so that its global batches are ours."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    loss = RowMeanLoss(combination.batch_rows)
    peak = PeakMemory(combination.device, measured)

    class Rounds(TrainerCallback):
        """A step lasts from the end of the one before, so that all that Trainer does between them is in it."""

        begun = cpu_begun = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self._begin()

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
            synchronise(combination.device)
            measured.seconds.append(time.perf_counter() - self.begun)
            measured.cpu_seconds.append(time.process_time() - self.cpu_begun)
            peak.end()
            measured.losses.append(float(loss.total))
            loss.total = 0.0
            control.should_training_stop = between(state.global_step, allocated(combination.device) - others)
            self._begin()
            return control

        def _begin(self) -> None:
            peak.begin(others)
            synchronise(combination.device)
            self.begun, self.cpu_begun = time.perf_counter(), time.process_time()

    steps = combination.warmup + combination.steps
    data = [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": [-100] * prompt + ids[prompt:].tolist()}
        for step in range(steps)
        for ids, prompt in rows.at(step)
    ]
    on_gpu = combination.device != "cpu"
    checkpointing: dict[str, Any] = {}
    if combination.checkpointing:
        checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=combination.trainer_rows, max_steps=steps,
        gradient_accumulation_steps=-(-combination.batch_rows // combination.trainer_rows), use_cpu=not on_gpu,
        bf16=on_gpu, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0,
        optim="adamw_torch_fused",
        remove_unused_columns=False, report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True,
        **checkpointing,
    )  # fmt: skip
    model = trainer_model(combination, torch.device(combination.device))
    measured.trained = trained_weights(model)
    measured.checkpointing = combination.checkpointing
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0})), pad_token="<pad>")
    tokenizer.padding_side = "right"
    trainer = InOrder(
        model=model, args=arguments, train_dataset=data, data_collator=DataCollatorForSeq2Seq(tokenizer),
        compute_loss_func=loss, callbacks=[Rounds()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    measured.micro_batches = arguments.gradient_accumulation_steps
    trainer.train()


def trainer_model(combination: Combination, device: torch.device) -> Any:
    """The same base, wrapped by PEFT as its users do, with the same new adapter."""
    base = combination.shape.model(device, combination.weights_dtype)
    if combination.method == "Full":
        return base
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=combination.rank,
        lora_alpha=2 * combination.rank,
        lora_dropout=0.0,
        target_modules=list(PROJECTIONS),
        bias="none",
    )
    torch.manual_seed(1)
    return get_peft_model(base, config)


def try_trainer(combination: Combination, rows: SpeedRows, measured: Measured, **arguments: Any) -> bool:
    """`run_trainer`; False if it was out of memory, which ``measured`` then has."""
    try:
        run_trainer(combination, rows, measured, **arguments)
    except (torch.OutOfMemoryError, MicroBatchTooLarge) as error:  # of either side, if they take turns
        measured.out_of_memory = out_of_memory(error, len(measured.seconds))
        return False
    return True
