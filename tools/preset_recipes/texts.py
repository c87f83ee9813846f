"""The texts that the presets are trained on: short, whole, and openly licensed."""

import dataclasses
import hashlib
import json
import lzma
import platform
import re

from keras_textdiff.data import python_source

HELD_OUT = 26  # of 256 values of a byte: a tenth
PYTHON_LICENCE = (
    "the Python Software Foundation License Version 2 (PSF-2.0), under which Python and its "
    "standard library are distributed"
)
# A sentence ends here where an upper-case letter or a quotation mark follows.
SENTENCE_END = re.compile(r"(?<=[.!?])(?:(?<=[^A-Z][.!?]))\s+(?=[\"'A-Z])")
SENTENCE = re.compile(r"[A-Z][^\"()_\[\]*]{14,98}[a-z][.!?]")
SHORTENED = re.compile(r"\b(Mr|Mrs|Dr|St|No|Esq|Messrs)\.$")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Texts, and what is known about them.

    Attributes:
        train: list of strings.
        held_out: list of strings.
        description: str, what a text is and where it comes from.
        licence: str.
    """

    train: list
    held_out: list
    description: str
    licence: str

    @property
    def digest(self):
        """Return the beginning of a SHA-256 of all texts, which tells one corpus from another."""
        parts = json.dumps([self.train, self.held_out]).encode()
        return hashlib.sha256(parts).hexdigest()[:16]


def load_corpus(domain, path=None):
    """Return the `Corpus` of "python", or of "english" from a file of novels.

    Args:
        domain: "python" or "english".
        path: str or path of a JSON-lines file, packed with xz or not, of rows with "text",
            "license" ("public domain") and "source"; for "english" only.

    Raises:
        ValueError: where the path is missing or not called for, or a licence is not open.
    """
    if domain == "python":
        if path is not None:
            raise ValueError("--data is for English; Python's text is its standard library.")
        return _python()
    if path is None:
        raise ValueError(
            "English needs --data: a .jsonl or .jsonl.xz file of novels with 'text', 'license' "
            "and 'source'."
        )
    return _english(path)


def _python():
    parts = [
        [row["text"].strip() for row in python_source(part=part, unit="function")]
        for part in ("train", "held_out")
    ]
    return Corpus(
        *parts,
        f"functions and methods of the standard library of Python {platform.python_version()}, "
        "each for itself and moved to the left; those of a tenth of the files are held out",
        PYTHON_LICENCE,
    )


def _english(path):
    opened = lzma.open if str(path).endswith(".xz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        novels = [json.loads(line) for line in file]
    others = sorted({row["license"] for row in novels} - {"public domain"})
    if others:
        raise ValueError(f"{path}: only public-domain novels are trained on. Got {others}.")
    sentences = list(dict.fromkeys(text for row in novels for text in split_sentences(row["text"])))
    parts = [[text for text in sentences if _is_held_out(text) == held] for held in (False, True)]
    sources = ", ".join(sorted({row["source"] for row in novels}))
    return Corpus(
        *parts,
        f"sentences of {len(novels)} English novels (from {sources}), each for itself; a tenth of "
        "them, by hash, is held out",
        "none needed: the novels are in the public domain",
    )


def split_sentences(text):
    """Return the plain narrative sentences of a text, without quotations and headings."""
    found, held = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        for part in SENTENCE_END.split(" ".join(paragraph.split())):
            held += (" " if held else "") + part
            if SHORTENED.search(held):
                continue  # "Mr." and the like end no sentence
            if SENTENCE.fullmatch(held):
                found.append(held)
            held = ""
        held = ""
    return found


def _is_held_out(text):
    return hashlib.blake2b(text.encode()).digest()[0] < HELD_OUT
