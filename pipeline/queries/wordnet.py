"""Names of WordNet's synsets from its database files.

Format: wndb(5WN) of WordNet 3.0. A line of ``data.<pos>`` that does not start with a space is one
synset: ``offset lex_filenum ss_type w_cnt word lex_id …``; ``w_cnt`` is two hex digits, a word has
``_`` for spaces and, in ``data.adj``, perhaps a syntactic marker such as ``(p)``. The name of a
synset is its first word in lower case, as NLTK and with it the published lists have it. The
``index.<pos>`` files hold the same words in another order and are not read.
"""

import re
from collections import Counter

from pipeline import storage
from pipeline.errors import ConfigError

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")

_MARKER = re.compile(r"\((?:a|p|ip)\)\Z")


def data_files(folder: str) -> list[str]:
    """The database files of a folder that are read.

    Raises:
        ConfigError: There is none.
    """
    found = _files(folder)
    wanted = [f"data.{pos}" for pos in PARTS_OF_SPEECH]
    if not set(wanted) & set(found):
        raise ConfigError(
            f"path={folder!r} holds none of {', '.join(wanted)}; give the folder of WordNet's "
            "database files (Debian's package wordnet-base has it)"
        )
    return [storage.join(folder, name) for name in wanted if name in found]


def synset_names(folder: str) -> Counter[str]:
    """Names of all synsets below a folder, each with the number of synsets that bear it.

    Args:
        folder: Folder with at least one of ``data.noun``, ``data.verb``, ``data.adj``,
            ``data.adv``.

    Raises:
        ConfigError: None of the files is there, or one is no WordNet file.
    """
    names: Counter[str] = Counter()
    for path in data_files(folder):
        text = storage.read_bytes(path).decode("utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), start=1):
            if line and not line.startswith(" "):
                names[_name(line, path, number)] += 1
    return names


def _files(folder: str) -> list[str]:
    return storage.list_names(folder) if storage.exists(folder) else []


def _name(line: str, path: str, number: int) -> str:
    fields = line.split(" ", 5)
    if len(fields) < 6 or not (len(fields[0]) == 8 and fields[0].isdigit()):
        raise ConfigError(f"{path}:{number}: {line[:40]!r} is no synset; give WordNet's own files")
    return _MARKER.sub("", fields[4]).replace("_", " ").lower()
