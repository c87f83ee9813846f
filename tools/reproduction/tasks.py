"""What models are fine-tuned on and judged by: prompts, responses, and how answers are scored."""

import dataclasses
import functools
import hashlib
import pathlib
import pydoc_data.topics
import random as python_random
import re
from collections.abc import Callable

from keras_textdiff import evaluation
from keras_textdiff.data import named_source
from reproduction import programs

TRANSLATION_PROMPT = "French: {en}\n"
QA_PROMPT = "{context}\nquestion: {question}\nanswer:"
CODE_PROMPT = "{text}\n"
TRANSLATION_CORPORA = ("tatoeba", "multi30k")
CODE_CORPORA = ("programs", "mbpp")
MOST_PROGRAMS = 12_000  # to make for training


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        title: str, what it is and on which data.
        rows: list or grain dataset of rows of "prompts" and "responses" to train on.
        examples: list of dicts to evaluate on, each with its "prompts" and "responses".
        make: callable from examples to an `EvaluationTask`.
        metric: str, the metric of the paper's tables.
    """

    title: str
    rows: object
    examples: list
    make: Callable
    metric: str


def load_task(name, scale, data):
    """Return a `Task`.

    Args:
        name: "translation", "qa" or "code".
        scale: `Scale`.
        data: `DataOptions`.
    """
    if scale.corpus == "public":
        return _public(name, scale)
    if name == "code":
        return _code(scale, data)
    if data.folder is None:
        return {"translation": _reversal, "qa": _copying}[name](scale)
    if name == "qa":
        return _squad(scale, data)
    return {"tatoeba": _tatoeba, "multi30k": _multi30k}[data.translation](scale, data)


def limit(task, name, scale, tokenizer):
    """Return a task without examples that do not fit into a row, and not more than wanted."""
    length = scale.lengths[name]
    rows = task.rows
    if isinstance(rows, list):
        rows = fitting(rows, tokenizer, length, scale.training_examples)
    examples = fitting(task.examples, tokenizer, length, scale.evaluation_examples[name])
    if not (examples and len(rows)):
        raise ValueError(
            f"No example of {task.title!r} fits into {length} tokens. Use a scale with longer rows."
        )
    return dataclasses.replace(task, rows=rows, examples=examples)


def fitting(rows, tokenizer, length, count):
    """Return the first `count` rows that fit into `length` tokens, with an end token."""
    found = []
    for start in range(0, len(rows), 4096):
        part = rows[start : start + 4096]
        prompts = tokenizer([row["prompts"] for row in part])
        responses = tokenizer([row["responses"] for row in part])
        for row, prompt, response in zip(part, prompts, responses, strict=True):
            if len(prompt) + len(response) < length:
                found.append(row)
        if len(found) >= count:
            break
    return found[:count]


def is_held_out(text):
    """Return whether examples of this text are held out, a sixteenth."""
    return hashlib.blake2b(text.encode()).digest()[0] < 16


# === Translation ===


def _tatoeba(scale, data):
    pairs = evaluation.read_examples(pathlib.Path(data.folder, "mt", "tatoeba_enfr.jsonl.xz"))
    pairs = [pair for pair in pairs if max(map(_num_words, pair.values())) <= scale.most_words]
    held_out = {}
    for pair in pairs:
        if is_held_out(pair["en"]):
            held_out.setdefault(pair["en"], []).append(pair["fr"])
    seen = {fr for references in held_out.values() for fr in references}
    rows = [
        {"prompts": TRANSLATION_PROMPT.format(**pair), "responses": pair["fr"]}
        for pair in pairs
        if pair["en"] not in held_out and pair["fr"] not in seen
    ]
    examples = [{"en": en, "fr": references} for en, references in held_out.items()]
    title = f"English to French, Tatoeba's sentences of at most {scale.most_words} words"
    return _translation(title, rows, examples)


def _multi30k(scale, data):
    read = evaluation.read_examples
    pairs = read(pathlib.Path(data.folder, "mt", "multi30k_train.jsonl.xz"))
    rows = [
        {"prompts": TRANSLATION_PROMPT.format(**pair), "responses": pair["fr"]} for pair in pairs
    ]
    held_out = read(pathlib.Path(data.folder, "mt", "multi30k_test_2016_flickr.jsonl.xz"))
    examples = [{"en": pair["en"], "fr": [pair["fr"]]} for pair in held_out]
    return _translation("English to French, Multi30k's captions", rows, examples)


def _reversal(scale):
    """A transformation that can be undone, where there are no translations."""
    rows, examples = [], []
    for sentence in _sentences():
        words = sentence.split()
        if not 3 <= len(words) <= 6:
            continue
        reverse = " ".join(reversed(words))
        if is_held_out(sentence):
            examples.append({"en": sentence, "fr": [reverse]})
        else:
            prompt = TRANSLATION_PROMPT.format(en=sentence)
            rows.append({"prompts": prompt, "responses": reverse})
    return _translation("word order reversed, in place of a translation", rows, examples)


def _translation(title, rows, examples):
    for example in examples:
        example["prompts"] = TRANSLATION_PROMPT.format(**example)
        example["responses"] = example["fr"][0]

    def make(examples):
        return evaluation.TranslationTask(examples, prompt=TRANSLATION_PROMPT)

    return Task(title, _shuffled(rows), _shuffled(examples), make, "bleu")


# === Question answering ===


def _squad(scale, data):
    folder = pathlib.Path(data.folder, "qa")
    read = evaluation.read_examples
    training = read(folder / "squad_v1.1_train_slice.jsonl.xz")
    for name in ("new_wiki", "reddit", "amazon_reviews"):
        training += read(folder / f"squadshifts_{name}.json.xz")
    rows, examples = [], []
    for example in training:
        answer = example["answers"][0]
        context = words_around(answer, example["context"], scale.context_words)
        if context is not None:
            prompt = QA_PROMPT.format(context=context, question=example["question"].strip())
            rows.append({"prompts": prompt, "responses": " " + answer})
    for example in read(folder / "squad_v1.1_dev_visible.json.xz"):
        answer = example["answers"][0]
        context = words_around(answer, example["context"], scale.context_words)
        if context is not None:
            question = example["question"].strip()
            examples.append({**example, "context": context, "question": question})
    title = (
        "SQuAD and SQuADShifts, contexts cut to the answer and at most "
        f"{scale.context_words} words on either side"
    )
    return _question_answering(title, rows, examples)


def _copying(scale):
    """A question that can be answered by copying, where there are no others."""
    rows, examples = [], []
    for sentence in _sentences():
        words = sentence.split()
        if not 4 <= len(words) <= 10 or len(set(words)) < len(words):
            continue
        place = len(sentence) % (len(words) - 1)
        example = {
            "context": sentence,
            "question": f"what follows {words[place]}?",
            "answers": [words[place + 1]],
        }
        if is_held_out(sentence):
            examples.append(example)
        else:
            prompt = QA_PROMPT.format(**example)
            rows.append({"prompts": prompt, "responses": " " + words[place + 1]})
    return _question_answering("copying a word, in place of questions", rows, examples)


def _question_answering(title, rows, examples):
    for example in examples:
        example["prompts"] = QA_PROMPT.format(**example)
        example["responses"] = " " + example["answers"][0]

    def make(examples):
        return evaluation.QuestionAnsweringTask(examples, prompt=QA_PROMPT)

    return Task(title, _shuffled(rows), _shuffled(examples), make, "f1")


def words_around(answer, context, count):
    """Return `answer` and `count` words on either side of it, or None where it is not there."""
    before, found, behind = context.partition(answer)
    if not found:
        return None
    left = " ".join(before.split()[-count:]) + " " * before[-1:].isspace()
    right = " " * behind[:1].isspace() + " ".join(behind.split()[:count])
    return f"{left}{answer}{right}".strip()


# === Code ===


def _code(scale, data):
    if data.code == "mbpp":
        path = pathlib.Path(data.folder, "code_tasks", "mbpp_visible.jsonl.xz")
        problems = evaluation.read_examples(path)
        train = [row for row in problems if row["split"] == "train"]
        held_out = [row for row in problems if row["split"] == "test"]
        title = "MBPP"
    else:
        make = functools.partial(programs.make_tasks, most_operations=scale.most_operations)
        train = make("train", min(scale.training_examples, MOST_PROGRAMS))
        # Some will not fit into a row.
        held_out = make("held_out", 3 * scale.evaluation_examples["code"])
        title = "generated tasks of MBPP's kind, held-out combinations of operations"
    return _programs(title, train, held_out, CODE_PROMPT, scale)


def _programs(title, train, held_out, template, scale):
    rows = [{"prompts": template.format(**row), "responses": row["code"]} for row in train]
    for row in held_out:
        row.update(prompts=template.format(**row), responses=row["code"])

    def make(examples):
        samples = scale.code_samples
        return evaluation.CodeTask(
            examples,
            "mbpp",
            sandbox=evaluation.Sandbox(wall_seconds=2, memory_mb=256),
            prompt=template,
            num_samples=samples,
            k=(1, samples) if samples > 1 else 1,
        )

    return Task(title, _shuffled(rows), held_out, make, f"pass@{scale.code_samples}")


# === Public corpora, by name ===


def _public(name, scale):
    corpus = {"translation": "wmt14/en-fr", "qa": "squad", "code": "mbpp"}[name]
    rows = named_source(corpus)
    if name == "code":  # the tests, too
        examples = evaluation.read_examples(pathlib.Path("mbpp.jsonl"), "MBPP's mbpp.jsonl")
        held_out = [row for row in examples if 11 <= row["task_id"] <= 510]
        template = '"""\n{text}\n{test_list[0]}\n"""\n'
        return dataclasses.replace(_programs("MBPP", [], held_out, template, scale), rows=rows)
    split = {"translation": "test", "qa": "validation"}[name]
    examples = list(named_source(corpus, split=split)[: scale.evaluation_examples[name]])
    if name == "translation":
        return Task(
            "WMT14 English to French",
            rows,
            examples,
            lambda rows: evaluation.TranslationTask(rows, target="responses", prompt="{prompts}"),
            "bleu",
        )
    examples = [
        {**row, "question": "", "context": "", "answers": [row["responses"]]} for row in examples
    ]
    return Task(
        "SQuAD, the first answer of each question",
        rows,
        examples,
        lambda rows: evaluation.QuestionAnsweringTask(rows, prompt="{prompts}"),
        "f1",
    )


def _sentences():
    """Return sentences of Python's own help texts, which every machine has."""
    text = " ".join(pydoc_data.topics.topics.values())
    sentences = re.split(r"(?<=[.!?:])\s+", text)
    cleaned = (re.sub(r"[^A-Za-z' ]+", " ", sentence) for sentence in sentences)
    return list(dict.fromkeys(" ".join(sentence.split()) for sentence in cleaned))


def _num_words(text):
    return len(text.split())


def _shuffled(rows):
    """Return the rows in another order, the same one every time."""
    return python_random.Random(0).sample(rows, len(rows))
