import json

import h5py
import ml_dtypes
import numpy as np
import pytest

from keras_textdiff.models import DiffusionLM
from keras_textdiff.presets import save_preset
from tests import tiny
from tests.presets.presets import diffusion_lm, load, logits, quantize
from tests.presets.test_reader import refused

EMBEDDING = "layers/reversible_embedding/vars/0"
QUERY = "layers/transformer_block_1/self_attention/query/vars/0"


@pytest.fixture
def weights(preset):
    """The weights file of a preset to change."""
    (preset / "checksums.json").unlink()
    return preset / "model.weights.h5"


def change(path, name, function):
    with h5py.File(path, "r+") as file:
        function(file, name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, index", [(EMBEDDING, (32, 31)), (QUERY, (0, 3, 7))])
def test_11_not_finite(preset, weights, name, index, value):
    def write(file, name):
        file[name][index] = value

    change(weights, name, write)
    refused(preset, weights, name, "NaN, inf", list(index))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_11_not_finite_in_bfloat16(tmp_path, value):
    save_preset(diffusion_lm(dtype="bfloat16"), tmp_path / "preset")
    (tmp_path / "preset" / "checksums.json").unlink()
    path = tmp_path / "preset" / "model.weights.h5"

    def write(file, name):
        block = file[name][...].view(ml_dtypes.bfloat16)
        block[1, 2] = value
        file[name][...] = block.view("V2")

    change(path, EMBEDDING, write)
    refused(tmp_path / "preset", path, EMBEDDING, "NaN, inf", [1, 2], dtype="bfloat16")


def test_11_overflow_of_the_requested_dtype(preset, weights):
    def write(file, name):
        file[name][1, 2] = 1e6

    change(weights, EMBEDDING, write)
    load(preset)
    refused(preset, weights, EMBEDDING, "beyond float16", dtype="float16")


def test_missing_variable(preset, weights):
    change(weights, QUERY, lambda file, name: file.__delitem__(name))
    refused(preset, weights, QUERY, "1 of 20 variables are missing")


def test_extra_variable(preset, weights):
    change(weights, "layers/dense/vars/0", lambda file, name: file.create_dataset(name, data=[1.0]))
    refused(preset, weights, "layers/dense/vars/0", "no place", "another model")


def test_weights_of_another_model(preset, weights, tmp_path):
    save_preset(diffusion_lm(num_layers=1), tmp_path / "other")
    (tmp_path / "other" / "model.weights.h5").rename(weights)
    refused(preset, weights, "missing", "transformer_block_1")


@pytest.mark.parametrize("shape", [(32, 33), (33 * 32,), (33, 32, 1), ()])
def test_misshapen_variable(preset, weights, shape):
    def write(file, name):
        del file[name]
        file.create_dataset(name, data=np.zeros(shape, "float32"))

    change(weights, EMBEDDING, write)
    refused(preset, weights, EMBEDDING, str(shape), "(33, 32)")


def test_an_array_larger_than_its_bytes_is_never_read(preset, weights):
    def write(file, name):
        del file[name]
        file.create_dataset(name, shape=(10**9, 10**6), dtype="float32", chunks=(1, 1000))

    change(weights, EMBEDDING, write)
    refused(preset, weights, EMBEDDING, "1000000000")


@pytest.mark.parametrize("data", [np.zeros((33, 32), "int8"), np.zeros((33, 32), "V2")])
def test_wrong_dtype(preset, weights, data):
    def write(file, name):
        del file[name]
        file.create_dataset(name, data=data)

    change(weights, EMBEDDING, write)
    refused(preset, weights, EMBEDDING, "dtype")


def test_quantized_weights_for_a_float_model(tmp_path):
    lm = DiffusionLM(tiny.backbone())
    save_preset(lm, tmp_path / "preset")
    save_preset(quantize(lm, "int8"), tmp_path / "quantized")
    (tmp_path / "preset" / "checksums.json").unlink()
    (tmp_path / "quantized" / "model.weights.h5").rename(tmp_path / "preset" / "model.weights.h5")
    refused(tmp_path / "preset", "model.weights.h5", "vars/")


@pytest.mark.parametrize("kind", ["soft", "external", "twice", "cycle", "stored elsewhere"])
def test_links_inside_the_file(preset, weights, tmp_path, kind):
    def write(file, name):
        if kind == "cycle":
            file["layers/again"] = file["layers"]
            return
        data = file[name][...]
        del file[name]
        if kind == "soft":
            file[name] = h5py.SoftLink("/" + QUERY)
        elif kind == "external":
            file[name] = h5py.ExternalLink("other.h5", "/x")
        elif kind == "twice":
            file[name] = file[QUERY]
        else:
            external = [(str(tmp_path / "raw"), 0, data.nbytes)]
            file.create_dataset(name, data.shape, data.dtype, external=external)

    change(weights, EMBEDDING, write)
    refused(preset, weights, "layers")


def test_17_git_lfs_pointer(preset, weights):
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(preset, weights, "git lfs pull")


def test_not_hdf5(preset, weights):
    weights.write_bytes(b"PK\x03\x04" * 100)
    refused(preset, weights, "not an HDF5 file", "PK")
    weights.write_bytes(b"")
    refused(preset, weights, "not an HDF5 file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(preset, weights, share):
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    refused(preset, weights, "cut off or damaged")


def test_no_weights(preset, weights):
    weights.unlink()
    refused(preset, preset, "model.weights.h5", "neither")


def test_weights_of_a_task(preset, weights):
    (preset / "task.weights.h5").write_bytes(weights.read_bytes())
    refused(preset, preset / "task.weights.h5", "no place")


# === Shards ===


@pytest.fixture
def sharded(tmp_path):
    """A preset whose weights lie in several files."""
    save_preset(diffusion_lm(), tmp_path / "sharded", max_shard_size=1e-5)
    assert len(list((tmp_path / "sharded").glob("model_*.weights.h5"))) > 3
    return tmp_path / "sharded"


def edit_index(directory, function):
    (directory / "checksums.json").unlink()
    path = directory / "model.weights.json"
    index = json.loads(path.read_text())
    function(index["weight_map"])
    path.write_text(json.dumps(index))


def test_shards(sharded):
    np.testing.assert_array_equal(logits(load(sharded)), logits(diffusion_lm()))


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd", "model_1.weights.h5", 3, None])
def test_17_a_shard_elsewhere(sharded, name):
    edit_index(sharded, lambda weight_map: weight_map.update(a=name))
    refused(sharded, sharded / "model.weights.json", repr(name), "in the preset's folder")


def test_a_shard_that_is_missing(sharded):
    (sharded / "checksums.json").unlink()
    (sharded / "model_00001.weights.h5").unlink()
    refused(sharded, sharded / "model.weights.json", "model_00001.weights.h5", "missing")


def test_an_index_that_hides_a_variable(sharded):
    group = "/" + QUERY.rsplit("/", 1)[0]
    edit_index(sharded, lambda weight_map: weight_map.pop(group))
    refused(sharded, "model.weights.json", "self_attention/query")


def test_an_index_without_shards(sharded):
    edit_index(sharded, lambda weight_map: weight_map.clear())
    refused(sharded, sharded / "model.weights.json", "weight_map")


def test_11_not_finite_in_a_shard(sharded):
    (sharded / "checksums.json").unlink()
    for path in sharded.glob("model_*.weights.h5"):
        with h5py.File(path, "r+") as file:
            if QUERY in file:
                file[QUERY][0, 0, 0] = np.nan
                changed = path
    refused(sharded, changed, QUERY, "NaN")
