import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import keras
import keras_hub
import numpy as np
import pytest

from keras_textdiff.presets import save_preset, writer
from tests import tiny
from tests.presets.presets import diffusion_lm, load, logits


def tree(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_layout_is_that_of_keras_hub_with_checksums(saved, tmp_path, keras_hub_saves):
    keras_hub.models.Task.save_to_preset(diffusion_lm(), str(tmp_path / "theirs"))
    ours, theirs = tree(saved), tree(tmp_path / "theirs")
    checksums = json.loads(ours.pop("checksums.json"))
    assert set(ours) == set(theirs) == set(checksums)
    for name, data in ours.items():
        assert hashlib.sha256(data).hexdigest() == checksums[name]
        if name.endswith(".json") and name != "metadata.json":
            assert json.loads(data) == json.loads(theirs[name])


def test_a_preset_is_replaced(tmp_path):
    directory = tmp_path / "new" / "preset"
    save_preset(diffusion_lm(), str(directory), max_shard_size=1e-5)
    save_preset(diffusion_lm(seed=1), directory)
    assert not list(directory.glob("model_*"))
    np.testing.assert_array_equal(logits(load(directory)), logits(diffusion_lm(seed=1)))
    assert os.listdir(directory.parent) == ["preset"]


def test_an_empty_folder_and_a_link_are_written_to(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    save_preset(diffusion_lm(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    load(tmp_path / "empty")


@pytest.mark.parametrize("names", [["notes.txt"], ["config.json", "src/main.py"], ["task.json"]])
def test_a_folder_with_other_files_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(ValueError) as caught:
        save_preset(diffusion_lm(), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert names[-1] in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    lm = diffusion_lm(dtype=dtype)
    layer = lm.backbone.transformer_layers[1].feed_forward.up
    kernel = tiny.to_numpy(layer.kernel).astype("float32")
    kernel[3, 4] = value
    layer.kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"feed_forward/up/kernel.*NaN or inf"):
        save_preset(lm, tmp_path / "preset")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "directory, message",
    [("hf://a/b", "upload_preset"), ("", "string or a path"), (3, "string or a path")],
)
def test_other_targets_are_refused(directory, message):
    with pytest.raises(ValueError, match=message):
        save_preset(diffusion_lm(), directory)


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Only tasks and backbones"):
        save_preset(keras.Sequential(), tmp_path / "preset")
    with pytest.raises(ValueError, match="max_shard_size"):
        save_preset(diffusion_lm(), tmp_path / "preset", max_shard_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        save_preset(diffusion_lm(), tmp_path / "file")


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["_write_json", "file_checksum", "_flush", "_swap"])
def test_49_a_full_disk_leaves_the_preset_before(tmp_path, monkeypatch, name):
    save_preset(diffusion_lm(), tmp_path / "preset")
    before = tree(tmp_path / "preset")
    monkeypatch.setattr(writer, name, full_disk)
    with pytest.raises(OSError, match="No space"):
        save_preset(diffusion_lm(seed=1), tmp_path / "preset")
    assert os.listdir(tmp_path) == ["preset"]
    assert tree(tmp_path / "preset") == before


def test_a_failed_swap_is_undone(tmp_path, monkeypatch):
    save_preset(diffusion_lm(), tmp_path / "preset")
    before = tree(tmp_path / "preset")
    rename = pathlib.Path.rename

    def fail(self, target):
        if len(self.name) > 30:  # the unfinished folder
            full_disk()
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        save_preset(diffusion_lm(seed=1), tmp_path / "preset")
    assert tree(tmp_path / "preset") == before


def test_a_save_that_was_killed_between_its_renames(tmp_path):
    save_preset(diffusion_lm(), tmp_path / "preset")
    (tmp_path / "preset").rename(tmp_path / ".preset.previous")
    with pytest.raises(ValueError, match=r"interrupted.*Rename .*\.preset\.previous to "):
        load(tmp_path / "preset")
    save_preset(diffusion_lm(seed=1), tmp_path / "preset")
    np.testing.assert_array_equal(logits(load(tmp_path / "preset")), logits(diffusion_lm(seed=1)))
    assert os.listdir(tmp_path) == ["preset"]


KILLED = """
import os, pathlib, signal, sys
from keras_textdiff.presets import writer
from tests import tiny
def kill(*args): os.kill(os.getpid(), signal.SIGKILL)
writer._flush = kill
writer.save_preset(tiny.diffusion_lm(), sys.argv[1])
"""


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "preset"], check=False)
    (left,) = tmp_path.iterdir()
    others = [f".other.{'0' * 32}", ".preset.notes", f".preset.{'0' * 31}"]
    living, young = (tmp_path / f".preset.{digit * 32}" for digit in "ab")
    for path in [*(tmp_path / name for name in others), living, young]:
        path.mkdir()
    for path in tmp_path.iterdir():
        if path != young:
            os.utime(path, (0, time.time() - writer.LOCKED_WITHIN - 1))
    with writer._lock(living) as free:
        assert free
        save_preset(diffusion_lm(), tmp_path / "preset")
    assert not left.exists()
    assert set(os.listdir(tmp_path)) == {"preset", living.name, young.name, *others}


def test_a_save_holds_its_lock(tmp_path, monkeypatch):
    seen = []

    def look(directory):
        with writer._lock(directory) as free:
            seen.append(free)

    monkeypatch.setattr(writer, "_flush", look)
    save_preset(diffusion_lm(), tmp_path / "preset")
    assert seen == [False]
