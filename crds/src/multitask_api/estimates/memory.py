"""The memory of training, in bytes, from the shape of the base model and the settings.

What a decoder layer keeps for its backward pass is counted tensor by tensor, as PyTorch's autograd saves them for the
layers of transformers: the same on a GPU and a CPU. Korthikanti et al. (arXiv 2205.05198) count so for GPT. Weights,
gradients and AdamW's moments follow Rajbhandari et al. (ZeRO, arXiv 1910.02054, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multitask_api.estimates.shape import ModelShape
from multitask_api.resource.training import Optimizer
from multitask_api.resource.tuning import Tuning

#: The most logits that the loss has at once, which takes the target positions in parts: with their loss and its
#: gradients about 1 GiB. With a vocabulary of 152,000 tokens, 32,768 tokens of text would have 80 GB of them.
MOST_LOGITS = 1 << 26
_FP32 = 4
#: Bytes of AdamW's two moments for each trained weight.
ADAMW_BYTES = 8
#: Of a weight that is trained, in fp32: itself, its gradient, two moments.
TRAINED_BYTES = 2 * _FP32 + ADAMW_BYTES
#: Weights of a tensor from which bitsandbytes keeps the moments in 8 bits, and those that share a scale in fp32.
EIGHT_BIT_WEIGHTS, _EIGHT_BIT_BLOCK = 4096, 256
#: Bytes of a weight in NF4: 4 bits, of 64 weights a scale in 8 bits, of 256 scales one in fp32 (arXiv 2305.14314, 3).
_NF4_BYTES = 1 / 2 + 1 / 64 + _FP32 / (64 * 256)


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest micro-batch: all its tokens, those of a sequence, and the positions where targets are predicted.

    ``masked``: sequences hold several rows, which a mask keeps apart. With varlen attention there is none.
    """

    tokens: int
    sequence: int
    targets: int
    masked: bool = False


@dataclass(frozen=True)
class TrainingMemory:
    """What training takes at the most, in bytes, by what it is for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept for the backward pass, or needed while it goes through a layer."""
    loss: int
    """Logits, and what the loss and its gradient need of their size, while they are there."""

    @property
    def state(self) -> int:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The sum."""
        return self.state + self.activations + self.loss


@dataclass(frozen=True)
class MemoryModel:
    """A base model and how it is trained, by ``tasks`` tasks together. ``mixed``: computed in bf16 (autocast).

    ``gpus`` divide the weights among them (FSDP; what is trained beside a frozen base each has whole): the memory is
    that of one.
    """

    shape: ModelShape
    tuning: Tuning
    mixed: bool
    checkpointing: bool = False
    tasks: int = 1
    optimizer: Optimizer | None = None
    """As in ``Training``; None: AdamW."""
    takes_steps: bool = True
    """False: gradients are taken, and there is no optimizer."""
    gpus: int = 1
    runs: int = 1
    """LoRA runs that train on one base, each an adapter of its own."""

    @property
    def trains_all(self) -> bool:
        """Whether all weights are trained, not adapters beside a frozen base."""
        return self.tuning.method == "Full"

    @property
    def trained_weights(self) -> int:
        """Weights that are trained; of CGC-LoRA without its gates."""
        return self.shape.parameters if self.trains_all else self.runs * self._adapter_weights

    @property
    def _adapter_weights(self) -> int:
        """Those of one run."""
        return self.shape.layers * sum(self._trained_sizes())

    @property
    def _rank(self) -> int:
        """The ranks of an adapted layer, of all experts together."""
        if not self.tuning.has_experts or self.tasks == 1:
            return self.tuning.rank
        return self.tuning.experts(self.tasks) * self.tuning.expert_rank_in(self.tasks)

    @property
    def _element(self) -> int:
        """Bytes of a number that layers compute."""
        return 2 if self.mixed else _FP32

    def _is_trained(self, projection: str) -> bool:
        targets = self.tuning.target_modules
        return self.trains_all or not targets or projection in targets

    # -- the sum -------------------------------------------------------------------------------------------------------

    def of(self, batch: MicroBatchShape) -> TrainingMemory:
        """The memory with micro-batches like ``batch``."""
        trained = self.trained_weights
        kept = self._kept(batch)
        # The backward pass, in this order: the loss, the head, the layers, the embedding. The largest counts.
        layers = self._waiting + self._in_a_layer(batch)
        passes = max(kept + max(self._of_the_head(batch) + self._waiting, layers), self._at_the_end)
        activations = passes + self._gathered
        logits = 3 * _FP32 * min(batch.targets * self.shape.vocabulary, MOST_LOGITS)  # with both gradients, in fp32
        return TrainingMemory(
            weights=self._weights(),
            gradients=self._part_of_trained(_FP32 * trained),
            optimizer=self._part_of_trained(self._moments()),
            activations=activations,
            loss=max(0, kept + self._of_the_head(batch) + logits - passes),
        )

    @property
    def _base_bytes(self) -> int:
        """Bytes of a weight of the base: a frozen one has the precision of the computation."""
        return _FP32 if self.trains_all else self._element

    def _part(self, size: int) -> int:
        return -(-size // self.gpus)

    def _part_of_trained(self, size: int) -> int:
        return self._part(size) if self.trains_all else size

    @property
    def _gathered(self) -> int:
        """What is whole for a while where weights are divided: embedding and head, the layer that runs and the next
        one, and the gradient of a layer, in fp32 too, in which it is summed. Not measured.
        """
        if self.gpus == 1:
            return 0
        layer = self.shape.linear_weights // self.shape.layers
        ends = self.shape.embedding_weights * (1 if self.shape.tied else 2)
        gradient = layer * (self._element + _FP32) if self.trains_all else 0
        return self._element * (2 * layer + ends) + gradient

    def _weights(self) -> int:
        """Base and adapters, of several runs one more, for validation. Embeddings, head and norms are not in 4 bits."""
        base = self._base_bytes * self.shape.parameters
        if self.tuning.quantization is not None:
            base -= round((self._base_bytes - _NF4_BYTES) * self.shape.linear_weights)
        adapters = 0 if self.trains_all else self.trained_weights + (self._adapter_weights if self.runs > 1 else 0)
        return self._part(base) + _FP32 * adapters

    def _moments(self) -> int:
        """AdamW's two moments of what is trained. In 8 bits neither embeddings nor what is small has them."""
        if not self.takes_steps:
            return 0
        saved = 0
        if self.optimizer == "AdamW8bit":
            shape = self.shape
            saved = self.runs * shape.layers * sum(_saved_by_8_bits(size) for size in self._trained_sizes())
            if self.trains_all and not shape.tied:
                saved += _saved_by_8_bits(shape.embedding_weights)
        return ADAMW_BYTES * self.trained_weights - saved

    def _trained_sizes(self) -> Iterator[int]:
        """Weights of each matrix of a decoder layer that is trained."""
        for each in self.shape.projections():
            if self.trains_all:
                yield each.inputs * each.outputs
            elif self._is_trained(each.name):
                yield self._rank * each.inputs
                yield self._rank * each.outputs

    def _kept(self, batch: MicroBatchShape) -> int:
        """What all layers keep when the loss is computed."""
        shape = self.shape
        if self.checkpointing:
            kept = shape.layers * batch.tokens * shape.width * self._base_bytes
        else:
            kept = shape.layers * self._of_layer(batch)
        tables = 2 * batch.tokens * shape.head_size * self._element  # cosines and sines of positions
        mask = batch.tokens * batch.sequence if batch.masked else 0
        return kept + tables + mask

    def _in_a_layer(self, batch: MicroBatchShape) -> int:
        """What the backward pass needs besides while it goes through a layer: gradients, and all that is recomputed."""
        shape = self.shape
        numbers = 2 * shape.feed_forward + 2 * shape.width
        if self.mixed and not self.trains_all and self._is_trained("down_proj"):
            numbers += 3 * shape.feed_forward  # back through A the gradient goes in bf16, fp32 and bf16 again
        gradients = batch.tokens * numbers * self._element
        matrix = shape.feed_forward * shape.width * (_FP32 + (2 if self.mixed else 0)) if self.trains_all else 0
        if self.tuning.quantization is not None:
            matrix = shape.feed_forward * shape.width * self._element  # as numbers that can be multiplied
        recomputed = self._of_layer(batch) if self.checkpointing else 0
        return gradients + matrix + recomputed

    def _of_the_head(self, batch: MicroBatchShape) -> int:
        """What head and last norm keep. With a frozen base the last norm does, and the first layer's does not."""
        if not self.trains_all:
            return 0
        copy = 2 * self.shape.embedding_weights if self.mixed else 0
        return 2 * batch.tokens * self.shape.width * _FP32 + copy

    @property
    def _waiting(self) -> int:
        """The gradient of a head that is the embedding too: it waits for the embedding's."""
        return _FP32 * self.shape.embedding_weights if self.trains_all and self.shape.tied else 0

    @property
    def _at_the_end(self) -> int:
        """The embedding's gradient; with one that waits, both, and in fp32 their sum."""
        if not self.trains_all:
            return 0
        parts = 1 if not self.shape.tied else 2 if self.mixed else 3
        return parts * _FP32 * self.shape.embedding_weights

    # -- a layer -------------------------------------------------------------------------------------------------------

    def _of_layer(self, batch: MicroBatchShape) -> int:
        """What a layer keeps for its backward pass."""
        shape, element = self.shape, self._element
        # A mask takes keys and values as often as there are heads, and every layer its own mask as numbers.
        keys = shape.queries if batch.masked else shape.keys
        attention = (2 * shape.queries + 2 * keys + (batch.sequence if batch.masked else 0)) * element
        attention += _FP32 * shape.heads
        feed_forward = 3 * shape.feed_forward * element  # gate, its activation, and what it is multiplied with
        linear = (self._inputs() + self._of_adapters()) * element
        return batch.tokens * (attention + feed_forward + self._of_norms() + linear) + self._copied_weights(batch)

    def _of_norms(self) -> int:
        """Bytes for each token: the input in fp32, for the gradient of the weight what was normalised, and a factor."""
        shape, each = self.shape, _FP32 * (2 if self.trains_all else 1)
        bytes_ = 2 * (shape.width * each + _FP32)
        if shape.normalises_heads:
            bytes_ += (shape.queries + shape.keys) * each + _FP32 * (shape.heads + shape.key_value_heads)
        return bytes_

    def _copied_weights(self, batch: MicroBatchShape) -> int:
        """Autocast makes a bf16 copy of each trained weight. Of several runs, each sequence has one of its adapter."""
        if self.runs > 1:
            return batch.tokens // batch.sequence * self._element * self._adapter_weights // self.shape.layers
        if not self.mixed:
            return 0
        return 2 * (self.shape.linear_weights if self.trains_all else self.trained_weights) // self.shape.layers

    def _inputs(self) -> int:
        """Numbers for each token that linear layers keep of their inputs, for the gradients of trained weights.

        In fp32 those that read the same share it, and attention keeps what it gives anyway. In bf16 autocast makes a
        copy for each, but of what is bf16 already, that is with all weights trained what attention and the activation
        give. Dropout gives every adapter an input of its own, and keeps a mask.
        """
        trained = [each for each in self.shape.projections() if self._is_trained(each.name)]
        if self.tuning.dropout and not self.trains_all:
            return 2 * sum(each.inputs for each in trained)
        kept = {each.name: each.inputs for each in trained}
        if not self.mixed:
            kept = {_READS[name]: inputs for name, inputs in kept.items()}
        if self.trains_all or not self.mixed:
            kept = {name: inputs for name, inputs in kept.items() if name not in ("o_proj", "attention")}
        return sum(kept.values())

    def _of_adapters(self) -> int:
        """Numbers for each token between A and B of the adapters; with experts, before and after their weights."""
        if self.trains_all:
            return 0
        adapted = sum(self._is_trained(each.name) for each in self.shape.projections())
        weighed = self.tuning.has_experts and self.tasks > 1
        return self._rank * adapted * (2 if weighed else 1)


def _saved_by_8_bits(size: int) -> int:
    """Bytes that both moments of a tensor of ``size`` weights take less in 8 bits than in fp32."""
    if size < EIGHT_BIT_WEIGHTS:
        return 0
    return ADAMW_BYTES * size - 2 * (size + _FP32 * -(-size // _EIGHT_BIT_BLOCK))


#: What each linear layer reads.
_READS = {
    "q_proj": "norm", "k_proj": "norm", "v_proj": "norm", "o_proj": "attention",
    "gate_proj": "second norm", "up_proj": "second norm", "down_proj": "activation",
}  # fmt: skip
