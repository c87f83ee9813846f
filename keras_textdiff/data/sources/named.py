"""Public corpora by name: from local files, or over the network."""

import dataclasses
import os
import pathlib

from keras_textdiff.data.sources.files import jsonl_source
from keras_textdiff.data.sources.hugging_face import hugging_face_source
from keras_textdiff.data.sources.parquet import parquet_source

FOLDER_VARIABLE = "KERAS_TEXTDIFF_DATA"
SUFFIXES = {
    ".jsonl": jsonl_source,
    ".jsonl.xz": jsonl_source,
    ".jsonl.gz": jsonl_source,
    ".parquet": parquet_source,
}
LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "fr": "French",
    "hi": "Hindi",
    "ru": "Russian",
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is known of a public corpus.

    Attributes:
        dataset: str, its name on the Hugging Face Hub.
        template: see `jsonl_source`.
        options: dict of further arguments of `hugging_face_source`.
    """

    dataset: str
    template: str | tuple
    options: dict = dataclasses.field(default_factory=dict)


def named_source(name, *, split="train", folder=None):
    """Read a public corpus by its name.

    A file `<folder>/<name>/<split>.jsonl` (or .jsonl.xz, .jsonl.gz, .parquet) with the corpus's
    own fields is read where there is one. Otherwise the corpus comes from the Hugging Face Hub;
    mC4 and The Stack are streamed.

    Args:
        name: "mc4/<language>" (web text, "mc4/en"), "the_stack/<language>" (code,
            "the_stack/python"; log in to the Hub and accept its terms first), "wmt14/<from>-<to>"
            (translation from or to English, "wmt14/en-fr"), "squad" (questions about a
            paragraph) or "mbpp" (Python tasks).
        split: str, as the corpus calls it: "train", "validation", "test".
        folder: str or path of local files; None means the environment variable
            KERAS_TEXTDIFF_DATA, or no folder where it is not set.

    Returns:
        `grain.MapDataset`, or `grain.IterDataset` where streamed, of rows of "text" or of
        "prompts" and "responses".

    Raises:
        FileNotFoundError: where the corpus is neither in the folder nor to be had over the
            network; says which file to put where.
        ValueError: for an unknown name.

    Example:
    ```python
    web = keras_textdiff.data.named_source("mc4/en")
    tasks = keras_textdiff.data.named_source("mbpp", split="test", folder="corpora")
    ```
    """
    corpus = find_corpus(name, split)
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    if folder is not None:
        for suffix, read in SUFFIXES.items():
            path = pathlib.Path(folder, *name.split("/"), split + suffix)
            if path.is_file():
                return read(path, template=corpus.template)
    try:
        return hugging_face_source(
            corpus.dataset,
            split=split,
            template=corpus.template,
            **corpus.options,
        )
    # No network, no such file there, no permission, no library: whatever it is, a file helps.
    except Exception as error:
        place = pathlib.Path(folder or "<folder>", *name.split("/"), f"{split}.jsonl")
        raise FileNotFoundError(
            f"Cannot read {name!r}, split {split!r}. There is no local file, and "
            f"{corpus.dataset!r} could not be loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {str(error)[:200]}). Put its rows, JSON objects with the "
            f"corpus's own fields (they go into {corpus.template!r}), into "
            f"{place} (or {', '.join(list(SUFFIXES)[1:])}), and name the folder by `folder=` or "
            f"the environment variable {FOLDER_VARIABLE}."
        ) from error


def find_corpus(name, split):
    """Return the `Corpus` of a name, or raise a ValueError that lists the names."""
    kind, _, variant = str(name).partition("/")
    if kind == "mc4" and variant.isalpha():
        middle = "-validation" if split == "validation" else ""
        files = {split: f"multilingual/c4-{variant}{middle}.tfrecord-*.json.gz"}
        return Corpus("allenai/c4", "{text}", {"data_files": files, "streaming": True})
    if kind == "the_stack" and variant:
        options = {"data_dir": f"data/{variant}", "streaming": True}
        return Corpus("bigcode/the-stack-dedup", "{content}", options)
    first, _, second = variant.partition("-")
    others = {first, second} - {"en"}
    if kind == "wmt14" and "en" in (first, second) and len(others & set(LANGUAGES)) == 1:
        (other,) = others
        prompt = f"Translate {LANGUAGES[first]} to {LANGUAGES[second]}: {{translation[{first}]}}\n"
        template = (prompt, f"{{translation[{second}]}}")
        return Corpus("wmt/wmt14", template, {"config": f"{other}-en"})
    if name == "squad":
        prompt = "question: {question}\ncontext: {context}\nanswer: "
        return Corpus("rajpurkar/squad", (prompt, "{answers[text][0]}"))
    if name == "mbpp":
        prompt = '"""\n{text}\n{test_list[0]}\n"""\n'
        return Corpus("google-research-datasets/mbpp", (prompt, "{code}"), {"config": "full"})
    raise ValueError(
        f"Unknown corpus {name!r}. Known: 'mc4/<language>', 'the_stack/<language>', "
        f"'wmt14/<from>-<to>' with 'en' and one of {sorted(set(LANGUAGES) - {'en'})}, 'squad', "
        "'mbpp'."
    )
