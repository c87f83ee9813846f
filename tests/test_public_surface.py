"""What users may import, and the arguments they may pass. A change here goes to CHANGELOG.md."""

import inspect

import pytest

import keras_textdiff

pytestmark = pytest.mark.backend_free

SURFACE = {
    "keras_textdiff": [
        "ar2diff",
        "backbones",
        "corruption",
        "evaluation",
        "models",
        "objectives",
        "samplers",
        "training",
    ],
    "keras_textdiff.backbones": ["TransformerBackbone"],
    "keras_textdiff.corruption": ["UniformCorruption", "get"],
    "keras_textdiff.evaluation": ["denoiser_cross_entropy"],
    "keras_textdiff.models": [
        "CausalLM",
        "CausalLMPreprocessor",
        "DiffusionLM",
        "DiffusionLMPreprocessor",
    ],
    "keras_textdiff.objectives": ["NextToken", "Objective", "Sundae", "get"],
    "keras_textdiff.samplers": ["ArgmaxUnrolledSampler", "Sampler", "SundaeSampler", "get"],
    "keras_textdiff.training": ["ExactResume"],
}
ARGUMENTS = {
    "ar2diff": "source attention block_length logit_shift dtype",
    "models.DiffusionLM.generate": (
        "self inputs max_length stop_token_ids strip_prompt seed batch_size return_trajectory"
    ),
    "models.DiffusionLM.infill": "self inputs lengths seed batch_size return_trajectory",
    "models.DiffusionLM.score": "self inputs batch_size",
    "models.DiffusionLM.compile": "self optimizer objective sampler kwargs",
    "models.CausalLM.compile": "self optimizer objective sampler kwargs",
    "models.CausalLM.generate": "self inputs max_length stop_token_ids strip_prompt",
    "objectives.Sundae": "num_unroll_steps unroll_temperature corruption",
    "samplers.SundaeSampler": (
        "num_denoising_steps temperature num_canvases update_proportion stop_when_unchanged"
    ),
    "samplers.ArgmaxUnrolledSampler": (
        "num_denoising_steps temperature num_canvases unrolled_proportion stop_when_unchanged"
    ),
    "training.ExactResume": "directory save_every_steps max_to_keep",
    "evaluation.denoiser_cross_entropy": ("lm data noise_levels positions batch_size seed"),
}


def resolve(path):
    value = keras_textdiff
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("module", SURFACE)
def test_names(module):
    path = module.removeprefix("keras_textdiff").removeprefix(".")
    value = resolve(path) if path else keras_textdiff
    assert sorted(value.__all__) == SURFACE[module]
    for name in value.__all__:
        assert inspect.getdoc(getattr(value, name)), f"{module}.{name} has no docstring"


@pytest.mark.parametrize("path", ARGUMENTS)
def test_arguments(path):
    assert " ".join(inspect.signature(resolve(path)).parameters) == ARGUMENTS[path]


@pytest.mark.parametrize("module", [name for name in SURFACE if "." in name])
def test_public_classes_show_an_example(module):
    for name in resolve(module.removeprefix("keras_textdiff.")).__all__:
        value = getattr(resolve(module.removeprefix("keras_textdiff.")), name)
        if inspect.isclass(value) and not inspect.isabstract(value):
            assert "Example:" in inspect.getdoc(value), f"{module}.{name}"
