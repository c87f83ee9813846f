"""Every source against files and datasets that other libraries have written."""

import ast
import gzip
import json
import lzma
import pathlib
import pickle
import sys
import textwrap
import warnings

import grain
import pytest

from keras_textdiff.data import (
    hugging_face_source,
    jsonl_source,
    parquet_source,
    python_source,
    text_source,
    tfds_source,
)
from keras_textdiff.data.sources.files import PieceFile

pytestmark = pytest.mark.backend_free

RECORDS = [
    {"question": f"Où {number}?", "answers": {"text": [f"là {number}", "no"]}, "n": number}
    for number in range(7)
]
TEMPLATE = ("Q: {question}\n", "{answers[text][0]}")
ROWS = [{"prompts": f"Q: Où {n}?\n", "responses": f"là {n}"} for n in range(7)]
DATA = pathlib.Path(__file__).parents[3] / "../shared/data"


def rows(source):
    assert isinstance(source, grain.MapDataset)
    return [source[index] for index in range(len(source))]


# === Files ===


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_text_files(tmp_path, suffix):
    opener = {"": open, ".xz": lzma.open, ".gz": gzip.open}[suffix]
    texts = ["eins\nzwei\n\n \ndrei é", "vier\r\n\nfünf\n"]
    for name, text in zip("ab", texts, strict=True):
        with opener(tmp_path / f"{name}.txt{suffix}", "wb") as file:
            file.write(text.encode())
    pattern = str(tmp_path / "*.txt*")
    assert rows(text_source(pattern)) == [{"text": text} for text in texts]
    lines = [row["text"] for row in rows(text_source(pattern, separator="\n"))]
    assert lines == ["eins", "zwei", "drei é", "vier\r", "fünf"]
    paragraphs = rows(text_source(tmp_path / f"a.txt{suffix}", separator="\n\n"))
    assert [row["text"] for row in paragraphs] == ["eins\nzwei", " \ndrei é"]


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_json_lines(tmp_path, suffix):
    opener = {"": open, ".xz": lzma.open, ".gz": gzip.open}[suffix]
    path = tmp_path / f"rows.jsonl{suffix}"
    with opener(path, "wt", encoding="utf-8") as file:
        for record in RECORDS[:4]:
            file.write(json.dumps(record, ensure_ascii=False) + "\n\n")
    with open(tmp_path / "more.jsonl", "w", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, RECORDS[4:])))  # no line break at the end
    source = jsonl_source([path, tmp_path / "more.jsonl"], template=TEMPLATE)
    assert rows(source) == ROWS
    assert [source[index] for index in (6, 0, 3)] == [ROWS[6], ROWS[0], ROWS[3]]
    assert rows(jsonl_source(path, template="{n}: {question}"))[2] == {"text": "2: Où 2?"}
    file = pickle.loads(pickle.dumps(PieceFile(str(path), "\n")))
    assert json.loads(file[3]) == RECORDS[3]


def test_braces_in_the_text_stay(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a {b} {0} {{c}}"}))
    assert rows(jsonl_source(tmp_path / "a.jsonl")) == [{"text": "a {b} {0} {{c}}"}]


@pytest.mark.parametrize(
    ("content", "template", "message"),
    [
        ('{"text": "a"}\n{bad', "{text}", r"a\.jsonl, non-empty line 2"),
        ("[1]", "{text}", r"a\.jsonl, non-empty line 1: must be a JSON object. Got list"),
        ('{"texts": "a"}', "{text}", r"needs the fields \['text'\], of which the record has \[\]"),
        ('{"text": null}', "{text}", "needs the fields"),
        ('{"text": {"a": []}}', "{text[a][0]}", "IndexError"),
        ("\n \n", "{text}", "There is no text"),
        ("", "{text}", "There is no text"),
        ("{}", "text", "names no field"),
        ("{}", "{text", "not a format string"),
        ("{}", ("{a}", "{b}", "{c}"), "pair of strings"),
        ("{}", ("{a}", 1), "pair of strings"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path, content, template, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        rows(jsonl_source(str(tmp_path / "a.jsonl"), template=template))


def test_missing_files(tmp_path):
    for source in (text_source, jsonl_source, parquet_source):
        with pytest.raises(FileNotFoundError, match=r"no file '.*nothing\*'"):
            source(str(tmp_path / "nothing*"))
        with pytest.raises(ValueError, match="is not a file"):
            source(tmp_path)
    with pytest.raises(ValueError, match="separator"):
        text_source(__file__, separator="")


def test_real_files():
    if not DATA.exists():
        pytest.skip("the folder of shared data is not on this machine")
    source = jsonl_source(DATA / "mt/multi30k_val.jsonl.xz", template=("{en}", "{fr}"))
    with lzma.open(DATA / "mt/multi30k_val.jsonl.xz", "rt", encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    assert len(source) == len(expected) == 1014
    assert source[1013] == {"prompts": expected[1013]["en"], "responses": expected[1013]["fr"]}


# === Libraries ===


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.Table.from_pylist(RECORDS)
    parquet.write_table(table.slice(0, 5), tmp_path / "a.parquet", row_group_size=2)
    parquet.write_table(table.slice(5), tmp_path / "b.parquet")
    assert rows(parquet_source(tmp_path / "*.parquet", template=TEMPLATE)) == ROWS
    with pytest.raises(ValueError, match=r"no column \['text'\].*question"):
        parquet_source(tmp_path / "*.parquet")


@pytest.fixture
def datasets():
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    return library


def test_hugging_face_datasets(tmp_path, datasets):
    dataset = datasets.Dataset.from_list(RECORDS)
    assert rows(hugging_face_source(dataset, template=TEMPLATE)) == ROWS
    dataset.save_to_disk(tmp_path / "saved")
    saved = datasets.load_from_disk(tmp_path / "saved")
    assert rows(hugging_face_source(saved, template=TEMPLATE)) == ROWS
    dataset.to_parquet(tmp_path / "a.parquet")
    with warnings.catch_warnings():  # of files that `datasets` leaves open
        warnings.simplefilter("ignore", ResourceWarning)
        source = hugging_face_source(
            "parquet",
            data_files=str(tmp_path / "a.parquet"),
            split="train[2:5]",
            template=TEMPLATE,
        )
    assert rows(source) == ROWS[2:5]
    with pytest.raises(ValueError, match="one split of a DatasetDict"):
        hugging_face_source(datasets.DatasetDict({"train": dataset}))


def test_a_stream_goes_on_at_every_position(datasets):
    stream = datasets.Dataset.from_list(RECORDS).to_iterable_dataset(num_shards=3)
    source = hugging_face_source(stream, template=TEMPLATE)
    assert isinstance(source, grain.IterDataset)
    assert list(source) == list(source) == ROWS
    iterator = iter(source)
    for position in range(7):
        state = json.loads(json.dumps(iterator.get_state()))
        again = iter(source)
        next(again)
        again.set_state(state)
        assert list(again) == ROWS[position:]
        assert next(iterator) == ROWS[position]


def test_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            features = {"question": text, "answers": tfds.features.Sequence({"text": text})}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for record in RECORDS:
                yield record["n"], {key: record[key] for key in ("question", "answers")}

    tfds.disable_progress_bar()
    Tiny(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = tfds_source("tiny", data_dir=tmp_path, template=TEMPLATE)
    assert (
        sorted(rows(source), key=lambda row: row["prompts"]) == ROWS
    )  # it shuffles when it writes


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [
        (lambda path: parquet_source(path), "pyarrow", "pyarrow"),
        (lambda path: hugging_face_source("squad"), "datasets", "datasets"),
        (lambda path: tfds_source("squad"), "tensorflow_datasets", "tensorflow-datasets"),
    ],
)
def test_a_library_that_is_not_installed_is_named(monkeypatch, source, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install {package}.*keras_textdiff\[data\]"):
        source(__file__)


# === Python ===


def test_the_standard_library_in_two_parts():
    parts = {part: python_source(part=part) for part in ("train", "held_out", "all")}
    assert len(parts["train"]) + len(parts["held_out"]) == len(parts["all"]) > 300
    assert 0.05 < len(parts["held_out"]) / len(parts["all"]) < 0.2
    texts = {part: {row["text"] for row in rows(source)} for part, source in parts.items()}
    assert pathlib.Path(textwrap.__file__).read_text() in texts["all"]
    assert texts["train"] | texts["held_out"] == texts["all"]


def test_functions_can_be_parsed_and_come_once():
    texts = [row["text"] for row in rows(python_source(part="held_out", unit="function"))]
    assert len(set(texts)) == len(texts) > 300
    parsed = 0
    for text in texts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                node = ast.parse(text).body
            except SyntaxError:  # text in it that begins further left
                continue
        parsed += 1
        assert len(node) == 1 and isinstance(node[0], (ast.FunctionDef, ast.AsyncFunctionDef))
    assert parsed > 0.97 * len(texts)


def test_python_source_refuses_other_words():
    with pytest.raises(ValueError, match="`part`"):
        python_source(part="test")
    with pytest.raises(ValueError, match="`unit`"):
        python_source(unit="line")
