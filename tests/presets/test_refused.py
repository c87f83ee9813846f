"""Presets that are refused, numbered as bad inputs are: what is said, and that it is said first."""

import json
import os
import shutil
import signal

import keras_hub
import pytest

from keras_textdiff.models import DiffusionLM, DiffusionLMPreprocessor
from keras_textdiff.presets import load_task, save_preset
from tests import tiny
from tests.presets.presets import CLASSES, LAMBDA, edit, edit_backbone, load, refused

FUNCTION = {
    "module": "keras.utils",
    "class_name": "function",
    "config": "get_file",
    "registered_name": "get_file",
}
FOREIGN_BACKBONE = {
    "module": "keras_hub.src.models.gpt2.gpt2_backbone",
    "class_name": "GPT2Backbone",
    "config": {},
    "registered_name": "keras_hub>GPT2Backbone",
}


# === 1 to 4: files that are no configs ===


def test_1_no_config(preset):
    (preset / "config.json").unlink()
    refused(preset, preset, "has no config.json", "save_to_preset")


@pytest.mark.parametrize("name", ["config.json", "task.json", "tokenizer.json"])
def test_2_not_json(preset, name):
    (preset / name).write_text('{"class_name": ')
    refused(preset, preset / name, "not JSON")


@pytest.mark.parametrize(
    "text, word",
    [
        ("[]", "JSON object"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "out of range"),
        ('{"a": ' + "9" * 5000 + "}", "out of range"),
        ('{"a": 1, "a": 2}', "appears twice"),
    ],
)
def test_2_json_that_no_preset_has(preset, text, word):
    (preset / "config.json").write_text(text)
    refused(preset, preset / "config.json", word)


def test_2_too_large(preset):
    (preset / "config.json").write_text(" " * (16 * 2**20 + 1))
    refused(preset, preset / "config.json", "at most 16777216")


def test_3_binary_config(preset):
    (preset / "config.json").write_bytes(b"\x80\x81PK")
    refused(preset, preset / "config.json", "binary data")


@pytest.mark.parametrize("depth", [40, 200_000])
def test_4_deeply_nested(preset, depth):
    (preset / "config.json").write_text('{"a":' + "[" * depth + "]" * depth + "}")
    refused(preset, preset / "config.json", "nested deeper than 32")


# === 5 and 6: classes and keys ===


@pytest.mark.parametrize("value", [FUNCTION, LAMBDA, FOREIGN_BACKBONE])
@pytest.mark.parametrize(
    "name, place",
    [
        ("config.json", "config.rope"),
        ("config.json", "config.dtype"),
        ("config.json", "config.layers_without_rope"),
        ("task.json", "config.backbone"),
        ("task.json", "config.backbone.config.rope.theta"),
        ("task.json", "config.preprocessor"),
        ("task.json", "config.preprocessor.config.tokenizer"),
        ("task.json", "config.preprocessor.config.sequence_length"),
        ("task.json", "config.logit_shift"),
        ("preprocessor.json", "config.tokenizer.config.unsplittable_tokens"),
        ("tokenizer.json", "config.dtype"),
    ],
)
def test_5_class_outside_the_list_anywhere(preset, name, place, value):
    edit(preset, {place: [value] if place.endswith(("rope", "tokens")) else value}, (name,))
    refused(preset, preset / name, place, value["class_name"], "allowed")


@pytest.mark.parametrize(
    "name", ["config.json", "task.json", "preprocessor.json", "tokenizer.json"]
)
def test_5_class_at_the_root(preset, name):
    (preset / "checksums.json").unlink()
    (preset / name).write_text(json.dumps(LAMBDA))
    refused(preset, preset / name, "Lambda", "Allowed")


def test_5_a_name_that_is_not_the_class(preset):
    edit(preset, {"module": "os", "class_name": "system"})
    refused(preset, "os.system", "'keras_textdiff>TransformerBackbone'")


def test_5_a_pattern_for_a_policy(preset):
    policy = {
        "module": "keras.dtype_policies",
        "class_name": "DTypePolicyMap",
        "config": {"default_policy": None, "policy_map": {"(a+)+$": "float32"}},
        "registered_name": None,
    }
    edit_backbone(preset, {"dtype": policy})
    refused(preset, "'(a+)+$' is not the path of a layer")


def test_5_other_frameworks_are_sent_to_ar2diff(preset):
    (preset / "config.json").write_text('{"model_type": "gpt2"}')
    (preset / "task.json").unlink()
    refused(preset, "config.json", "Transformers", "ar2diff")


@pytest.mark.parametrize(
    "name, place, suggestion",
    [
        ("config.json", "config.num_layer", "num_layers"),
        ("task.json", "config.logit_shfit", "logit_shift"),
        ("preprocessor.json", "config.seqence_length", "sequence_length"),
        ("tokenizer.json", "config.add_prefx_space", "add_prefix_space"),
        ("config.json", "registered_nam", "registered_name"),
    ],
)
def test_6_unknown_key(preset, name, place, suggestion):
    edit(preset, {place: 3}, (name,))
    refused(preset, preset / name, place.split(".")[-1], f"Did you mean '{suggestion}'?")


def test_6_unknown_keyword(saved):
    refused(saved, "'logit_shft' is not", "Did you mean 'logit_shift'?", logit_shft=True)
    refused(saved, "'backbone' is not an argument of DiffusionLM.from_preset", backbone=None)


# === 7 to 9: values ===


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_layers": -1}, ["num_layers", "at least 1", "-1"]),
        ({"num_query_heads": 0}, ["num_query_heads", "at least 1"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "divide"]),
        ({"hidden_dim": "32"}, ["hidden_dim", "integer"]),
        ({"head_dim": True}, ["head_dim", "integer"]),
        ({"tie_embeddings": "no"}, ["tie_embeddings", "true or false"]),
        ({"dropout": "0"}, ["dropout", "number"]),
        ({"expert_layers": 1}, ["expert_layers", "list"]),
        ({"rope": {"theta": 1e4, "scaling": []}}, ["config"]),
        ({"rope": [1]}, ["rope"]),
        ({"trainable": "yes"}, ["trainable", "true or false"]),
        ({"name": 3}, ["name", "string"]),
        ({"dtype": "float31"}, ["dtype", "float31", "bfloat16"]),
        ({"dtype.registered_name": "other>Policy"}, ["dtype", "other>Policy", "Allowed"]),
        ({"attention": "sideways"}, ["attention", "bidirectional"]),
    ],
)
def test_7_8_bad_values(preset, changes, words):
    edit_backbone(preset, changes)
    refused(preset, preset / "config.json", *words)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_layers": 10**9}, ["GB in float32", "parameters", "maximum_gigabytes"]),
        ({"vocabulary_size": 10**12}, ["128,000.0 GB"]),
        ({"num_query_heads": 2 * 10**12}, ["GB"]),
        ({"num_layers": 2000}, ["num_layers", "at most 1024"]),
    ],
)
def test_9_giant_sizes(preset, changes, words):
    edit_backbone(preset, changes)
    refused(preset, preset / "config.json", *words)


def test_9_the_limit_can_be_set(saved):
    refused(saved, "0.0 GB are allowed", maximum_gigabytes=1e-6)
    load(saved, maximum_gigabytes=1.0)


# === 10: contradictions ===


@pytest.mark.parametrize(
    "name, place, value",
    [
        ("config.json", "config.num_layers", 1),
        ("config.json", "config.rope.theta", 500.0),
        ("preprocessor.json", "config.sequence_length", 99),
        ("tokenizer.json", "config.add_prefix_space", True),
    ],
)
def test_10_files_contradict_each_other(preset, name, place, value):
    edit(preset, {place: value}, (name,))
    refused(preset, preset / name, "contradict", place)


# === 12: checksums ===


def test_12_checksum_mismatch(preset):
    path = preset / "model.weights.h5"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(preset, path, "sha256", "damaged", preset / "checksums.json")
    load(preset, load_weights=False)


@pytest.mark.parametrize("kept", [4, 2000], ids=["no HDF5", "a damaged one"])
def test_12_a_mismatch_is_said_first(preset, kept):
    path = preset / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:kept])
    refused(preset, path, "sha256", "damaged", preset / "checksums.json")


def test_12_an_edited_config(preset):
    with open(preset / "config.json", "a") as file:
        file.write("\n")
    refused(preset, preset / "config.json", "delete", preset / "checksums.json")


def test_12_listed_but_missing(preset):
    (preset / "metadata.json").unlink()
    refused(preset, "checksums.json", "metadata.json", "missing")


def test_12_there_but_not_listed(preset):
    shutil.copy(preset / "model.weights.h5", preset / "model_00000.weights.h5")
    refused(preset, preset / "model_00000.weights.h5", "not listed")


# === 13 and 14: tokens ===


def test_13_tokenizer_larger_than_the_vocabulary(preset):
    edit_backbone(preset, {"vocabulary_size": 30})
    refused(preset, "vocabulary.json", "30", "Use the tokenizer")


@pytest.mark.parametrize("index", [33, 10**9, -1, 1.5, True, "a", None])
def test_13_token_id_out_of_range(preset, index):
    edit(preset, {"Ġthe": index}, ("assets/tokenizer/vocabulary.json",))
    refused(preset, preset / "assets/tokenizer/vocabulary.json", "'Ġthe'")


def test_13_special_token_missing(preset):
    path = preset / "assets/tokenizer/vocabulary.json"
    (preset / "checksums.json").unlink()
    vocabulary = json.loads(path.read_text())
    del vocabulary["<|endoftext|>"]
    path.write_text(json.dumps(vocabulary))
    refused(preset, path, "endoftext")


@pytest.mark.parametrize("size", [32, 300])
def test_13_tokenizers_without_files(tmp_path, size):
    tokenizer = keras_hub.tokenizers.ByteTokenizer()
    tokenizer.end_token_id = 0
    lm = DiffusionLM(tiny.backbone(vocabulary_size=300), DiffusionLMPreprocessor(tokenizer))
    save_preset(lm, tmp_path / "preset")
    edit_backbone(tmp_path / "preset", {"vocabulary_size": size})
    if size < 256:
        refused(tmp_path / "preset", "256 tokens", "`vocabulary_size` is 32")
    else:
        assert load(tmp_path / "preset").preprocessor.tokenizer.vocabulary_size() == 256


class MaskedTask(DiffusionLM):
    """A task with a mask token."""

    def __init__(self, backbone, preprocessor=None, mask_token_id=None, **kwargs):
        super().__init__(backbone, preprocessor, **kwargs)
        self.mask_token_id = mask_token_id

    def get_config(self):
        return {**super().get_config(), "mask_token_id": self.mask_token_id}


@pytest.mark.parametrize("mask_token_id", [33, -1, "32", True, 4.5])
def test_14_mask_token_out_of_range(tmp_path, mask_token_id):
    save_preset(MaskedTask(tiny.backbone(), mask_token_id=32), tmp_path / "preset")
    classes = {**CLASSES, "task_classes": (MaskedTask,)}
    assert load_task(tmp_path / "preset", MaskedTask, **classes).mask_token_id == 32
    edit(tmp_path / "preset", {"config.mask_token_id": mask_token_id}, ("task.json",))
    with pytest.raises(ValueError, match=r"task\.json: config\.mask_token_id.*\[0, 33\)"):
        load_task(tmp_path / "preset", MaskedTask, **classes)


# === 15 and 17: files that are not files, or lie elsewhere ===


@pytest.mark.parametrize(
    "name", ["config.json", "model.weights.h5", "checksums.json", "assets/tokenizer/merges.txt"]
)
def test_15_fifo(preset, name):
    (preset / name).unlink()
    os.mkfifo(preset / name)
    signal.alarm(60)  # a reader that opens it hangs
    try:
        refused(preset, preset / name, "FIFO")
    finally:
        signal.alarm(0)


def test_15_device(preset):
    (preset / "model.weights.h5").unlink()
    (preset / "model.weights.h5").symlink_to("/dev/zero")
    refused(preset, preset / "model.weights.h5", "/dev/zero", "outside")


def test_15_folder_instead_of_weights(preset):
    (preset / "model.weights.h5").unlink()
    (preset / "model.weights.h5").mkdir()
    refused(preset, preset, "model.weights.h5")


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "assets"])
def test_17_link_that_leaves_the_folder(preset, tmp_path, name):
    (preset / name).rename(tmp_path / "elsewhere")
    (preset / name).symlink_to("../elsewhere")
    refused(preset, preset / name, "outside the preset's folder")


def test_17_link_inside_the_folder(preset):
    (preset / "model.weights.h5").rename(preset / "w")
    (preset / "model.weights.h5").symlink_to("w")
    load(preset)


def test_17_broken_link(preset):
    (preset / "README.md").symlink_to("nowhere")
    refused(preset, preset / "README.md", "missing")


@pytest.mark.parametrize("key", ["vocabulary", "merges"])
def test_17_a_tokenizer_that_names_a_file(preset, key):
    (preset / "preprocessor.json").unlink()
    (preset / "tokenizer.json").unlink()
    place = f"config.preprocessor.config.tokenizer.config.{key}"
    edit(preset, {place: "/etc/passwd"}, ("task.json",))
    refused(preset, preset / "task.json", place, "/etc/passwd", "assets/tokenizer")


@pytest.mark.parametrize("value", ["/etc/x.json", "../x.json", "other.json", 3])
@pytest.mark.parametrize("key", ["tokenizer.config.config_file", "config_file"])
def test_17_a_config_file_elsewhere(preset, key, value):
    edit(preset, {f"config.{key}": value}, ("preprocessor.json",))
    refused(preset, preset / "preprocessor.json", "config_file", repr(value))


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a\\..\\b", "", ".", "a//b"])
def test_17_a_checksum_of_a_file_elsewhere(preset, name):
    path = preset / "checksums.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: "0"}))
    refused(preset, path, repr(name), "inside its folder")


def test_tokenizer_files_that_do_not_fit(preset):
    (preset / "checksums.json").unlink()
    (preset / "assets/tokenizer/merges.txt").write_text("x y z\n")
    refused(preset, preset / "assets/tokenizer/merges.txt", "GPT2Tokenizer")
    (preset / "assets/tokenizer/merges.txt").unlink()
    refused(preset, "tokenizer.json", "assets/tokenizer/merges.txt", "missing")
