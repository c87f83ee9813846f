import json
import lzma
import pathlib
import sys

import numpy as np
import pytest
import sacrebleu

from keras_textdiff.evaluation import bleu

pytestmark = pytest.mark.backend_free

SENTENCES = pathlib.Path(__file__).parents[2] / "../shared/data/mt/multi30k_val.jsonl.xz"


def test_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are in the reference.
    result = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert result["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert result["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_equals_sacrebleu():
    if not SENTENCES.exists():
        pytest.skip("the translation data is not here")
    with lzma.open(SENTENCES, "rt", encoding="utf-8") as file:
        references = [json.loads(line)["fr"] for line in file][:300]
    rng = np.random.default_rng(0)
    predictions = [
        " ".join(word for word in sentence.split() if rng.random() < 0.8) for sentence in references
    ]
    result = bleu(predictions, references)
    expected = sacrebleu.corpus_bleu(predictions, [references])
    assert result["bleu"] == expected.score
    assert 20 < result["bleu"] < 90
    intl = bleu(predictions, references, tokenize="intl")
    assert intl["bleu"] == sacrebleu.corpus_bleu(predictions, [references], tokenize="intl").score
    assert "tok:intl" in intl["signature"]


def test_several_references():
    predictions = ["the cat sat on the mat", "a dog ran on the road"]
    rows = [["the cat sat on a mat", "the cat sat on the mat"], ["one dog ran on a road"]]
    streams = [["the cat sat on a mat", "one dog ran on a road"], ["the cat sat on the mat", None]]
    assert bleu(predictions, rows)["bleu"] == sacrebleu.corpus_bleu(predictions, streams).score
    assert "nrefs:var" in bleu(predictions, rows)["signature"]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "empty"),
        (["a"], ["a", "b"], "1 predictions and 2"),
        ("a", ["a"], "`predictions` must be a list"),
        (["a"], "a", "`references` must be a list"),
        ([1], ["a"], "int at position 0"),
        (["a"], [[]], "at position 0"),
        (["a", "b"], ["a", ["b", None]], "at position 1"),
    ],
)
def test_bad_inputs(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        bleu(predictions, references)


def test_unknown_tokenizer():
    with pytest.raises(ValueError, match="13a"):
        bleu(["a"], ["a"], tokenize="14a")


def test_says_how_to_install_sacrebleu(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ImportError, match="pip install"):
        bleu(["a"], ["a"])
