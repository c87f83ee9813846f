"""Many prompts to many texts, in few compiled shapes."""

import collections

import keras_hub

from keras_textdiff.backbones.text_backbone import TextBackbone
from keras_textdiff.evaluation.rows import check_class, report, text_preprocessor
from keras_textdiff.models.diffusion_lm import DiffusionLM
from keras_textdiff.utils import random

LENGTH_BUCKET = 64  # lengths are rounded up to a multiple, so that compiled shapes repeat


def generate_texts(
    lm, prompts, *, response_length=None, num_samples=1, batch_size=32, seed=0, progress=None
):
    """Generate texts behind prompts; equal prompts are written once.

    Prompts of one length bucket are written in batches of one size. Each sample has a seed of
    its own. A `DiffusionLM`'s text depends on the prompt, `response_length` and the seed alone;
    that of an autoregressive model with a random sampler also on the other prompts.

    Args:
        lm: `DiffusionLM`, or `CausalLM` of this package or of KerasHub, with a preprocessor.
        prompts: list of strings.
        response_length: int, tokens that each prompt leaves for its text at least; the length
            of prompt and text together is rounded up to a multiple of 64. None gives every
            prompt and its text the preprocessor's `sequence_length`, as in training.
        num_samples: int, texts per prompt.
        batch_size: int, prompts at a time.
        seed: int.
        progress: callable `(stage, done, total)` or None.

    Returns:
        List with a list of `num_samples` texts, without prompt, per prompt.

    Raises:
        ValueError: before any work for a prompt that leaves no room.
    """
    check_class(
        lm,
        (DiffusionLM, keras_hub.models.CausalLM),
        "Only a DiffusionLM or a CausalLM can generate.",
    )
    if lm.preprocessor is None:
        raise ValueError("Generating text needs a model with a preprocessor.")
    distinct = list(dict.fromkeys(prompts))
    # What an encoder reads is no part of what is written, and takes none of its room.
    with_encoder = isinstance(lm.backbone, TextBackbone) and lm.backbone.has_encoder
    buckets = _buckets(lm, distinct, response_length, with_encoder)
    # Decoded alone, a text may lose the space that it begins with; so prompts are cut off later.
    preprocessor = text_preprocessor(lm)
    shown = preprocessor.detokenize(preprocessor.tokenize_prompts(distinct))
    shown = dict(zip(distinct, shown, strict=True))
    tell = report(progress, "generating", len(distinct) * num_samples)
    texts = {prompt: [] for prompt in distinct}
    done = 0
    for sample in range(num_samples):
        sample_seed = int(random.generator("samples", seed, step=sample).integers(2**31))
        _seed_sampler(lm, sample_seed)
        for length, members in buckets.items():
            num_batches = -(-len(members) // batch_size)
            size = -(-len(members) // num_batches)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                filled = batch + batch[:1] * (size - len(batch))  # one shape per bucket
                options = {"seed": sample_seed} if isinstance(lm, DiffusionLM) else {}
                outputs = lm.generate(filled, max_length=length, **options)
                for prompt, text in zip(batch, outputs, strict=False):
                    texts[prompt].append(text if with_encoder else _behind(shown[prompt], text))
                done += len(batch)
                if tell is not None:
                    tell(done)
    return [texts[prompt] for prompt in prompts]


def _buckets(lm, prompts, response_length, with_encoder):
    """Return the prompts by the length of the row that each goes into."""
    preprocessor = text_preprocessor(lm)
    lengths = [len(row) for row in preprocessor.tokenize_prompts(prompts)]
    if with_encoder:  # its rows begin with a start token
        lengths = [1] * len(prompts)
    buckets = collections.defaultdict(list)
    for prompt, length in zip(prompts, lengths, strict=True):
        if response_length is None:
            buckets[preprocessor.sequence_length].append(prompt)
        else:
            room = length + response_length
            buckets[room + -room % LENGTH_BUCKET].append(prompt)
    longest = max(lengths)
    if response_length is None and longest >= preprocessor.sequence_length:
        count = sum(length >= preprocessor.sequence_length for length in lengths)
        raise ValueError(
            f"{count} of {len(prompts)} prompts fill the model's `sequence_length` of "
            f"{preprocessor.sequence_length} tokens and leave no room for text (the longest has "
            f"{longest}). Pass `response_length`, or leave these examples out."
        )
    return dict(sorted(buckets.items()))


def _behind(prompt, text):
    """Return what stands behind the prompt in `text`."""
    pairs = enumerate(zip(prompt, text, strict=False))
    shared = next((index for index, (a, b) in pairs if a != b), len(prompt))
    return text[shared:]


def _seed_sampler(lm, seed):
    """Set the random state of an autoregressive model's sampler."""
    if not isinstance(lm, DiffusionLM):
        for state in lm.sampler.variables:
            state.assign([seed, 0])
