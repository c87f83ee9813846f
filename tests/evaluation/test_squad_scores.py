import json
import lzma
import pathlib

import pytest
from absl import logging

from keras_textdiff.evaluation import read_examples, squad_scores

pytestmark = pytest.mark.backend_free

DATA = pathlib.Path(__file__).parents[2] / "../shared/data/qa"


@pytest.mark.skipif(not DATA.exists(), reason="the question answering data is not here")
def test_official_scores_exactly():
    examples = read_examples(DATA / "squad_v1.1_dev_visible.json.xz")
    references = {example["id"]: example["answers"] for example in examples}
    with lzma.open(DATA / "squad_official_predictions_visible.json.xz", "rt") as file:
        predictions = json.load(file)["predictions"]
    official = json.loads((DATA / "squad_official_predictions_visible_scores.json").read_text())
    assert len(official) == len(predictions) == 5
    for system, scores in official.items():
        result = squad_scores(predictions[system], references)
        assert result["exact_match"] == scores["this_half"]["exact_match"]
        assert result["f1"] == scores["this_half"]["f1"]


@pytest.mark.parametrize(
    ("prediction", "answers", "exact_match", "f1"),
    [
        ("The Seine!", ["seine"], 100, 100),
        ("the  river\tSeine", ["Seine River"], 0, 100),
        ("Theatre", ["atre"], 0, 0),  # articles are words
        ("a theatre", ["theatre"], 100, 100),
        ("U.S.", ["US"], 100, 100),
        ("state-of-the-art", ["stateoftheart"], 100, 100),
        ("red red car", ["red car"], 0, 80),  # words count as often as they occur
        ("Paris", ["London", "in Paris"], 0, 200 / 3),
        ("", ["Paris"], 0, 0),
        ("the", [""], 100, 0),  # as the official evaluation has it
    ],
)
def test_one_answer(prediction, answers, exact_match, f1):
    scores = squad_scores({"q": prediction}, {"q": answers})
    assert scores == pytest.approx({"exact_match": exact_match, "f1": f1})


def test_unanswered_questions_score_0_and_are_named(monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    references = {"first": ["a b"], **{f"q{n}": ["b"] for n in range(9)}}
    scores = squad_scores({"first": "a b", "another": "b"}, references)
    assert scores == {"exact_match": 10, "f1": 10}
    assert "9 of 10" in messages[0]
    assert "'q0'" in messages[0]
    assert "4 more" in messages[0]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, {"q": ["a"]}, "`predictions` is empty"),
        ({"q": "a"}, {}, "`references` is empty"),
        (["a"], {"q": ["a"]}, "`predictions` must be a dict"),
        ({"q": "a"}, [["a"]], "`references` must be a dict"),
        ({"q": None}, {"q": ["a"]}, "NoneType for 'q'"),
        ({"q": "a"}, {"q": "a"}, "lists of one or more strings"),
        ({"q": "a"}, {"q": []}, "lists of one or more strings"),
        ({"q": "a"}, {"q": [{"text": "a"}]}, "lists of one or more strings"),
        ({"p": "a"}, {"q": ["a"]}, "None of the predictions"),
    ],
)
def test_bad_inputs(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        squad_scores(predictions, references)
