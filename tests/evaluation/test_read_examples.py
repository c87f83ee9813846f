import gzip
import json
import lzma

import pytest

from keras_textdiff.evaluation import read_examples

pytestmark = pytest.mark.backend_free

ROWS = [{"text": "one\u2028line"}, {"text": "zwei \N{GREEK SMALL LETTER ALPHA}"}]
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "c",
                    "qas": [
                        {"id": "1", "question": "p", "answers": [{"text": "a"}, {"text": "b"}]},
                        {"id": "2", "question": "q", "answers": [{"text": "a"}]},
                    ],
                }
            ]
        }
    ]
}


@pytest.mark.parametrize(("ending", "opener"), [("", open), (".gz", gzip.open), (".xz", lzma.open)])
def test_json_lines(tmp_path, ending, opener):
    path = tmp_path / f"rows.jsonl{ending}"
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n")
    assert read_examples(path) == read_examples(str(path)) == ROWS


def test_lists_and_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    assert read_examples(path) == read_examples(ROWS) == ROWS


def test_squad(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(SQUAD))
    assert read_examples(path) == [
        {"id": "1", "context": "c", "question": "p", "answers": ["a", "b"]},
        {"id": "2", "context": "c", "question": "q", "answers": ["a"]},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', "line 2"),
        ("rows.jsonl", b"[1]\n", "position 0"),
        ("rows.json", b'{"a": 1}', "SQuAD's layout"),
        ("rows.json", b'{"data": [{"paragraphs": 3}]}', "SQuAD's layout"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', "jsonl"),
        ("rows.json", b"3", "int"),
        ("rows.json", b"[" * 10**5, "not JSON"),
        ("rows.jsonl", b"\xff", "cannot be read"),
        ("rows.jsonl.xz", b"no xz", "cannot be read"),
        ("rows.jsonl.gz", b"no gz", "cannot be read"),
        ("rows.jsonl", b"\n", "no example"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_examples(path)
    assert name in str(error.value) or message == "int"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="Put the answers there") as error:
        read_examples(tmp_path / "nowhere.jsonl", "the answers")
    assert str(tmp_path / "nowhere.jsonl") in str(error.value)
    with pytest.raises(ValueError, match="No file"):
        read_examples(tmp_path)


@pytest.mark.parametrize("source", [3, None, [], ["a"], {"a": 1}])
def test_other_sources(source):
    with pytest.raises(ValueError):
        read_examples(source)
