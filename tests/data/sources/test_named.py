"""Public corpora from local files; without network or file, an error says what to do."""

import json

import pytest

from keras_textdiff.data import named_source
from keras_textdiff.data.sources import named

pytestmark = pytest.mark.backend_free

# One record of each corpus with the fields of its public form.
RECORDS = {
    "mc4/en": {"text": "A web page.", "timestamp": "2019-04-25", "url": "http://a.b"},
    "the_stack/python": {"content": "x = 1\n", "path": "a.py"},
    "wmt14/en-fr": {"translation": {"en": "Hello.", "fr": "Bonjour."}},
    "wmt14/fr-en": {"translation": {"en": "Hello.", "fr": "Bonjour."}},
    "squad": {
        "id": "1",
        "title": "T",
        "question": "Who?",
        "context": "Ann did.",
        "answers": {"text": ["Ann", "Ann did"], "answer_start": [0, 0]},
    },
    "mbpp": {
        "task_id": 1,
        "text": "Write add.",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    },
}
ROWS = {
    "mc4/en": {"text": "A web page."},
    "the_stack/python": {"text": "x = 1\n"},
    "wmt14/en-fr": {"prompts": "Translate English to French: Hello.\n", "responses": "Bonjour."},
    "wmt14/fr-en": {"prompts": "Translate French to English: Bonjour.\n", "responses": "Hello."},
    "squad": {
        "prompts": "question: Who?\ncontext: Ann did.\nanswer: ",
        "responses": "Ann",
    },
    "mbpp": {
        "prompts": '"""\nWrite add.\nassert add(1, 2) == 3\n"""\n',
        "responses": "def add(a, b):\n    return a + b",
    },
}


def write(folder, name, split="train"):
    path = folder.joinpath(*name.split("/"), f"{split}.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(RECORDS[name]) + "\n")


@pytest.mark.parametrize("name", RECORDS)
def test_local_files(tmp_path, monkeypatch, name):
    write(tmp_path, name)
    assert named_source(name, folder=tmp_path)[0] == ROWS[name]
    monkeypatch.setenv(named.FOLDER_VARIABLE, str(tmp_path))
    assert named_source(name)[0] == ROWS[name]


def test_local_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    (tmp_path / "squad").mkdir()
    table = pyarrow.Table.from_pylist([RECORDS["squad"]] * 3)
    parquet.write_table(table, tmp_path / "squad" / "validation.parquet")
    source = named_source("squad", split="validation", folder=tmp_path)
    assert len(source) == 3 and source[2] == ROWS["squad"]


@pytest.fixture
def no_network(monkeypatch):
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(named.FOLDER_VARIABLE, raising=False)


@pytest.mark.parametrize("name", RECORDS)
def test_a_missing_file_says_which_and_where(tmp_path, no_network, name):
    with pytest.raises(FileNotFoundError) as caught:
        named_source(name, split="test", folder=tmp_path)
    message = str(caught.value)
    assert str(tmp_path.joinpath(*name.split("/"), "test.jsonl")) in message
    assert named.find_corpus(name, "test").dataset in message
    with pytest.raises(FileNotFoundError, match=rf"<folder>/{name}/train\.jsonl.*KERAS_TEXTDIFF"):
        named_source(name)


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_asked_of_the_hub(monkeypatch, name):
    """The arguments that `datasets.load_dataset` takes: the rest is the network's."""
    datasets = pytest.importorskip("datasets")
    asked = {}

    def load(dataset, config, **options):
        asked.update(dataset=dataset, config=config, **options)
        stream = datasets.Dataset.from_list([RECORDS[name]])
        return stream.to_iterable_dataset() if options["streaming"] else stream

    monkeypatch.delenv(named.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert next(iter(named_source(name, split="validation"))) == ROWS[name]
    assert asked["dataset"] == named.find_corpus(name, "validation").dataset
    assert asked["split"] == "validation"
    assert asked["streaming"] == (name in ("mc4/en", "the_stack/python"))
    assert asked["config"] == {
        "wmt14/en-fr": "fr-en",
        "wmt14/fr-en": "fr-en",
        "mbpp": "full",
    }.get(name)


@pytest.mark.parametrize(
    "name", ["c4", "mc4", "wmt14/fr-de", "wmt14/en-en", "the_stack/", "squad2"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"Unknown corpus.*'squad'"):
        named_source(name)
