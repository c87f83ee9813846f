"""The text of pretraining, four fifths prose and one fifth Python."""

import dataclasses
import json
import lzma
import pathlib
import pydoc_data.topics

import grain

from keras_textdiff.data import mixture, named_source, python_source
from reproduction import tasks

PYTHON_SHARE = 0.2
LETTERS_PER_TOKEN = 2.6  # how long a piece of text is that fills a row, roughly
SMALLEST_PIECE = 40  # letters; shorter rests of a document are left out


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which data a reproduction uses, as its flags say.

    Attributes:
        folder: str, the folder of `--data`, or None for what Python brings.
        translation: "tatoeba" or "multi30k".
        code: "programs" or "mbpp".
    """

    folder: str | None
    translation: str = "tatoeba"
    code: str = "programs"

    def describe(self):
        """Return what the results depend on: not where the folder lies."""
        kind = "built-in" if self.folder is None else "folder"
        return {"data": kind, "translation": self.translation, "code": self.code}


def pretraining_sources(scale, options):
    """Return prose and code as lists of `(source, weight)`; all weights add up to 1."""
    if scale.corpus == "public":
        return [
            (named_source("mc4/en"), 1 - PYTHON_SHARE),
            (named_source("the_stack/python"), PYTHON_SHARE),
        ]
    size = int(LETTERS_PER_TOKEN * scale.lengths["pretraining"])
    count = scale.documents
    code = [row["text"] for row in python_source()[:count]]
    sources = [(pieces(code, size), PYTHON_SHARE)]
    if options.folder is None:
        prose = {"topics": (list(pydoc_data.topics.topics.values()), 1.0)}
    else:
        folder = pathlib.Path(options.folder, "text")
        novels = _texts(folder / "multilingual_novels.jsonl.xz", lang="fr")
        prose = {
            "sentences": (_monolingual(scale, options, size), 0.5),
            "stories": (_texts(folder / "en_tinystories.jsonl.xz"), 0.2),
            "web": (_texts(folder / "en_c4.jsonl.xz"), 0.2),
            "novels": (novels, 0.1),
        }
    for texts, share in prose.values():
        sources.append((pieces(texts[:count], size), share * (1 - PYTHON_SHARE)))
    return sources


def pretraining_rows(sources, seed):
    """Mix the sources in their proportions, without end."""
    return mixture([source for source, _ in sources], [weight for _, weight in sources], seed=seed)


def task_rows(rows, seed):
    """Return a task's rows, shuffled anew each round, without end."""
    if isinstance(rows, list):
        rows = grain.MapDataset.source(rows)
    return mixture([rows], seed=seed)


def pieces(texts, size):
    """Cut texts at the ends of lines or words into rows of about `size` letters, as a source."""
    rows = []
    for text in texts:
        start = 0
        while len(text) - start > size:
            end = max(text.rfind("\n", start, start + size), text.rfind(" ", start, start + size))
            end = start + size if end <= start else end
            rows.append(text[start:end])
            start = end
        if len(text) - start >= SMALLEST_PIECE:
            rows.append(text[start:])
    return grain.MapDataset.source(rows).map(lambda text: {"text": text})


def _texts(path, lang=None):
    with lzma.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [record["text"] for record in records if lang in (None, record["lang"])]


def _monolingual(scale, options, size):
    """Return what translations are trained on, each language for itself, no pair together."""
    task = tasks.load_task("translation", scale, options)
    documents = []
    for sentences in (
        [row["prompts"].split(":", 1)[1].strip() for row in task.rows],
        [row["responses"] for row in task.rows[::-1]],
    ):
        document = ""
        for sentence in dict.fromkeys(sentences):
            if document and len(document) + len(sentence) >= size:
                documents.append(document)
                document = ""
            document += ("\n" if document else "") + sentence
    return documents
