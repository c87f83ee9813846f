"""What a training step holds besides weights, optimizer and gradients, in bytes per device.

The counts of tensors are those that XLA keeps from the forward pass to the backward pass of a
block, read off compiled steps in float32 by changing one size at a time. Where blocks dominate,
plans are within 3% of XLA's own memory analysis on one CPU device and under data parallel, and
within 15% where devices share blocks, with XLA scheduling for memory (the flag
`xla_cpu_scheduler_type`, CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED). What that check does not cover:

- By default XLA schedules for concurrency on CPU. It recomputes all blocks at once then, so that
  gradient checkpointing saves next to nothing there, and runs the passes of SUNDAE one after the
  other, so that what they keep is not kept at the same time.
- Accelerators schedule in ways of their own, and may never hold attention's weights.
- In half precision XLA on CPU computes in float32. Two bytes are put into the same counts.
- With `fully_sharded`, XLA on CPU keeps the whole weights from the forward to the backward pass.
  An accelerator may gather them twice instead.

Per position, D hidden size, H heads times head size, F inner size; per query and key and head,
a score:

    kept from a block        4 D (its input, the input of the network, both normalized)
                             4 H (query, key, value, what is attended to)
                             5 F where gated, 3 F where not, 2 F for a ReLU that is not
                             2 scores: softmax in float32, and its copy in the compute dtype
    kept with checkpointing  D; but where position biases are added, the gradients of all blocks'
                             scores are held until they are summed, a score each, in float32
    at work in one block     3 D, 2 H, F; with checkpointing all that is kept without it as well;
                             5 D more, summed over devices, where these share a block
    logits of a pass         one chunk, and twice the gradient of the output matrix, in float32

A decoder that reads an encoder adds 2 D, 2 H and 2 scores per position, and once for all passes
2 H per layer and position of the prefix. A mixture computes all experts: its F is that of all of
them together, and their outputs add a D for each.
"""

import dataclasses

from keras_textdiff.objectives.cross_entropy import chunk_size

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a device has of each block.

    Attributes:
        config: dict, a backbone's complete config.
        rows: int, rows of a batch.
        model_size: int, devices that share a block ("model" of a mesh).
        itemsize: int, bytes of a number in the compute dtype.
    """

    config: dict
    rows: int
    model_size: int
    itemsize: int

    def features(self, number):
        """Return the bytes of that many hidden states of a position."""
        return number * self.config["hidden_dim"] * self.itemsize

    def heads(self, number):
        """Return the bytes of that many vectors of all heads of a position."""
        heads = self._share(self.config["num_query_heads"])
        return number * heads * self.config["head_dim"] * self.itemsize

    def inner(self, number):
        """Return the bytes of that many inner vectors of a feed-forward network."""
        return number * self._share(self.config["intermediate_dim"]) * self.itemsize

    def experts(self, number):
        """Return the bytes of that many inner vectors, and one output, of all experts."""
        num_experts = self._share(self.config["num_experts"])
        inner = self.config["expert_intermediate_dim"] or self.config["intermediate_dim"]
        return num_experts * (number * inner * self.itemsize + self.features(1))

    def scores(self, keys):
        """Return the bytes of a position's float32 attention weights and their copies."""
        return self._share(self.config["num_query_heads"]) * keys * (FLOAT32 + self.itemsize)

    def score_gradients(self, keys):
        """Return the bytes of the float32 gradients of a position's attention logits."""
        return self._share(self.config["num_query_heads"]) * keys * FLOAT32

    def _share(self, size):
        return size if size % self.model_size else size // self.model_size


def activation_bytes(sizes, length, *, prefix_length=0, num_passes=1, checkpointing=False):
    """Return the bytes that are kept for the backward pass, and those at work in one block.

    Args:
        sizes: `Sizes`.
        length: int, columns.
        prefix_length: int, columns of an encoder, 0 without one.
        num_passes: int, denoiser calls; what they keep is kept at the same time.
        checkpointing: bool, whether the blocks are computed again in the backward pass.
    """
    config = sizes.config
    biased = config["num_position_buckets"] is not None
    inner = 5 if config["gated_feed_forward"] else 2 if config["activation"] == "relu" else 3
    dense, mixture = sizes.inner(inner), sizes.experts(5) if config.get("num_experts") else 0
    num_mixtures = len(set(config.get("expert_layers", ())))
    exchanged = 0 if sizes.model_size == 1 else 5
    work = sizes.features(3 + exchanged) + sizes.heads(2) + max(sizes.inner(1), mixture // 5)

    def attention(keys):
        return sizes.features(2) + sizes.heads(4) + sizes.scores(keys)

    def stack(length, num_blocks, block, largest):
        """Return what the blocks of an encoder or a decoder keep, and what is at work."""
        positions = sizes.rows * length
        if not checkpointing:
            return positions * block, positions * work
        inputs = num_blocks * sizes.features(1)
        gradients = num_blocks * sizes.score_gradients(length) if biased else 0
        return positions * max(inputs, gradients), positions * (work + largest)

    own = attention(length) + sizes.features(2)
    if not prefix_length:
        num_blocks = config["num_layers"]
        blocks = num_blocks * own + (num_blocks - num_mixtures) * dense + num_mixtures * mixture
        kept, at_work = stack(length, num_blocks, blocks, own + max(dense, mixture))
        return num_passes * kept, num_passes * at_work
    num_blocks = config["num_decoder_layers"]
    block = own + dense + sizes.features(2) + sizes.heads(2) + sizes.scores(prefix_length)
    kept, at_work = stack(length, num_blocks, num_blocks * block, block)
    shared = sizes.rows * prefix_length * num_blocks * sizes.heads(2)
    num_blocks = config["num_encoder_layers"]
    block = attention(prefix_length) + sizes.features(2) + dense
    of_prefix, _ = stack(prefix_length, num_blocks, num_blocks * block, block)
    return num_passes * kept + of_prefix + shared, num_passes * at_work


def logit_bytes(sizes, length, num_passes=1):
    """Return the bytes of the chunks of logits, and of the gradients of the output matrix.

    Args:
        sizes: `Sizes`.
        length: int, columns.
        num_passes: int, denoiser calls.
    """
    vocabulary_size = sizes.config["vocabulary_size"]
    chunk = chunk_size(sizes.rows * length, vocabulary_size)
    share = vocabulary_size
    if vocabulary_size % sizes.model_size == 0:
        share //= sizes.model_size
    return num_passes * FLOAT32 * share * (chunk + 2 * sizes.config["hidden_dim"])
