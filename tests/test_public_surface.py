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
        "data",
        "distribution",
        "evaluation",
        "models",
        "objectives",
        "samplers",
        "training",
    ],
    "keras_textdiff.backbones": [
        "EncoderDecoderBackbone",
        "TransformerBackbone",
        "encoder_decoder_config",
        "transformer_config",
    ],
    "keras_textdiff.corruption": ["UniformCorruption", "get"],
    "keras_textdiff.data": [
        "Format",
        "PrefixLM",
        "ResumableDataset",
        "Room",
        "SpanCorruption",
        "UL2",
        "WholeDocument",
        "hugging_face_source",
        "jsonl_source",
        "mixture",
        "named_source",
        "parquet_source",
        "pipeline",
        "python_source",
        "text_source",
        "tfds_source",
    ],
    "keras_textdiff.distribution": ["RunPlan", "initialize", "layout_map", "plan_run"],
    "keras_textdiff.evaluation": [
        "CodeTask",
        "CrossEntropyTask",
        "EvaluationReport",
        "EvaluationTask",
        "LikelihoodTask",
        "QuestionAnsweringTask",
        "Sandbox",
        "SandboxResult",
        "SandboxUnavailable",
        "TaskResult",
        "TranslationTask",
        "bleu",
        "code_problem",
        "denoiser_cross_entropy",
        "evaluate",
        "likelihood_bound",
        "log_likelihood",
        "pass_at_k",
        "read_examples",
        "squad_scores",
    ],
    "keras_textdiff.models": [
        "CausalLM",
        "CausalLMPreprocessor",
        "DiffusionLM",
        "DiffusionLMPreprocessor",
    ],
    "keras_textdiff.objectives": ["NextToken", "Objective", "Sundae", "get"],
    "keras_textdiff.samplers": ["ArgmaxUnrolledSampler", "Sampler", "SundaeSampler", "get"],
    "keras_textdiff.training": [
        "ExactResume",
        "GuardedOptimizer",
        "RollBack",
        "RunLog",
        "WarmUp",
        "read_run_log",
    ],
}
ARGUMENTS = {
    "training.ExactResume": "directory save_every_steps max_to_keep",
    "training.RunLog": "path every_steps tensorboard peak",
    "training.read_run_log": "path",
    "training.GuardedOptimizer": ("optimizer spike_factor warm_up_steps momentum name kwargs"),
    "backbones.encoder_decoder_config": "size vocabulary_size",
    "backbones.transformer_config": "size vocabulary_size",
    "models.CausalLMPreprocessor": (
        "tokenizer sequence_length add_start_token prefix_length decoder_start_token_id format "
        "kwargs"
    ),
    "models.DiffusionLMPreprocessor": (
        "tokenizer sequence_length add_start_token prefix_length decoder_start_token_id format "
        "kwargs"
    ),
    "ar2diff": "source attention block_length logit_shift dtype",
    "models.DiffusionLM.generate": (
        "self inputs max_length stop_token_ids strip_prompt seed batch_size return_trajectory"
    ),
    "models.DiffusionLM.infill": "self inputs lengths seed batch_size return_trajectory",
    "models.DiffusionLM.score": "self inputs batch_size",
    "models.DiffusionLM.compile": "self optimizer objective sampler kwargs",
    "models.CausalLM.compile": "self optimizer objective sampler kwargs",
    "models.CausalLM.generate": "self inputs max_length stop_token_ids strip_prompt",
    "distribution.initialize": "coordinator_address num_processes process_id",
    "training.RollBack": "resume after_skipped max_roll_backs check_every",
    "training.WarmUp": "schedule num_steps",
    "distribution.layout_map": "backbone device_mesh fully_sharded",
    "distribution.plan_run": (
        "backbone device batch_size length prefix_length objective mesh fully_sharded dtype "
        "optimizer mfu num_tokens"
    ),
    "data.SpanCorruption": "corruption_rate mean_span_length sentinel_token_ids",
    "data.UL2": "weights mode_token_ids sentinel_token_ids",
    "data.mixture": "sources weights seed process_index process_count",
    "data.pipeline": "rows preprocessor batch_size pack seed sequence_length group_size",
    "data.named_source": "name split folder",
    "data.text_source": "paths separator",
    "data.jsonl_source": "paths template",
    "data.parquet_source": "paths template",
    "data.hugging_face_source": "dataset config split streaming data_dir data_files template",
    "data.tfds_source": "name split data_dir template",
    "data.python_source": "part unit",
    "objectives.Sundae": "num_unroll_steps unroll_temperature corruption",
    "samplers.SundaeSampler": (
        "num_denoising_steps temperature num_canvases update_proportion stop_when_unchanged"
    ),
    "samplers.ArgmaxUnrolledSampler": (
        "num_denoising_steps temperature num_canvases unrolled_proportion stop_when_unchanged"
    ),
    "evaluation.CodeTask": (
        "examples format sandbox prompt num_samples k response_length num_workers"
    ),
    "evaluation.CrossEntropyTask": "data noise_levels positions",
    "evaluation.LikelihoodTask": "data num_steps num_samples",
    "evaluation.QuestionAnsweringTask": "examples prompt response_length",
    "evaluation.TranslationTask": "examples target prompt response_length tokenize",
    "evaluation.bleu": "predictions references tokenize",
    "evaluation.denoiser_cross_entropy": (
        "lm data noise_levels positions batch_size seed progress"
    ),
    "evaluation.evaluate": "lm task batch_size seed progress",
    "evaluation.likelihood_bound": "lm data num_steps num_samples batch_size seed progress",
    "evaluation.log_likelihood": "lm data batch_size progress",
    "evaluation.pass_at_k": "num_samples num_correct k",
    "evaluation.read_examples": "source what",
    "evaluation.squad_scores": "predictions references",
    "evaluation.Sandbox": (
        "wall_seconds memory_mb cpu_seconds num_threads num_files file_mb output_kb"
    ),
    "evaluation.Sandbox.run": "self program tests entry_point",
    "evaluation.code_problem": "row completion",
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
