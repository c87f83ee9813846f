import pathlib
import shutil
import sys
import types

import pytest

from keras_textdiff.presets import locate_preset
from tests.presets.presets import load


def test_local_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset").mkdir()
    for handle in ("preset", "./preset", tmp_path / "preset", str(tmp_path / "preset")):
        assert locate_preset(handle).resolve() == tmp_path / "preset"


@pytest.mark.parametrize(
    "handle, message",
    [
        ("hf:/a/b", "Did you mean 'hf://a/b'"),
        ("hf:a/b", "Did you mean 'hf://a/b'"),
        (pathlib.Path("hf://a/b"), "Did you mean 'hf://a/b'"),
        ("kaggle:/a/b/keras/c", "Did you mean 'kaggle://a/b/keras/c'"),
        ("hf://a", "'hf://user/name'"),
        ("hf://a/../b", "'hf://user/name'"),
        ("kaggle://a/b", "'kaggle://user/model/keras/variation'"),
        ("gs://bucket/x", "Unknown scheme"),
        ("no_such_preset", "Shipped presets: .* 'hf://user/name'"),
        (3, "string or a path. Got 3"),
        (None, "string or a path"),
        ("", "string or a path"),
        (__file__, "is not one"),
    ],
)
def test_16_handles_that_name_nothing(handle, message):
    with pytest.raises(ValueError, match=message):
        locate_preset(handle)


def hugging_face_cache(saved, tmp_path):
    """Lay a preset out as the cache of Hugging Face does: links to blobs."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for index, path in enumerate(path for path in saved.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(index))
        depth = len(path.relative_to(saved).parts)
        link.symlink_to(pathlib.Path(*[".."] * (depth + 1), "blobs", str(index)))
    return snapshot


def test_hugging_face(saved, tmp_path, monkeypatch):
    snapshot = hugging_face_cache(saved, tmp_path)
    calls = []

    def snapshot_download(repository, allow_patterns):
        calls.append((repository, allow_patterns))
        return str(snapshot)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert locate_preset("hf://a/b") == snapshot
    assert calls == [("a/b", ["*.json", "*.weights.h5", "assets/*"])]
    load("hf://a/b")
    with pytest.raises(ValueError, match="outside the preset's folder"):
        load(snapshot)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(saved / "config.json")
    with pytest.raises(ValueError, match=r"config\.json.*outside the preset's folder"):
        load("hf://a/b")


def test_kaggle(saved, monkeypatch):
    module = types.SimpleNamespace(
        model_download=lambda handle: str(saved / handle / "../../../..")
    )
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    assert locate_preset("kaggle://a/b/keras/c").parts[-8:-4] == ("a", "b", "keras", "c")


@pytest.mark.parametrize(
    "handle, package", [("hf://a/b", "huggingface_hub"), ("kaggle://a/b/keras/c", "kagglehub")]
)
def test_downloads_that_fail(monkeypatch, handle, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"pip install {package}"):
        locate_preset(handle)

    def download(*args, **kwargs):
        raise OSError("no network")

    module = types.SimpleNamespace(snapshot_download=download, model_download=download)
    monkeypatch.setitem(sys.modules, package, module)
    with pytest.raises(ValueError, match=f"Cannot download '{handle}': no network"):
        locate_preset(handle)
