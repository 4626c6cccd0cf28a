"""In which language a caption is written, by py3langid: byte n-grams and naive Bayes.

The model (139 languages, BSD-3-Clause like its code) lies in the library's wheel: nothing is
fetched. Loading it takes 2 s and 100 MB, a caption some 50 µs. A caption of one or two words
spreads its probability over many languages; an English one of eight words has about 0.9 on English.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.candidates.config import CaptionFilterConfig
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

OTHER_LANGUAGE = "other_language"


def check(config: CaptionFilterConfig) -> None:
    """Refuse languages that the model does not know.

    Raises:
        ConfigError: One is unknown.
    """
    if not config.languages:
        return
    known = _identifier().labels
    unknown = [code for code in config.languages if code not in known]
    if unknown:
        raise ConfigError(
            f"captions.languages={list(config.languages)}: py3langid does not know {unknown[0]!r}; "
            f"it knows {', '.join(sorted(known))}"
        )


def language_reasons(
    captions: pa.StringArray | pa.ChunkedArray, config: CaptionFilterConfig
) -> pa.StringArray:
    """Why captions fall; null where one stays.

    Args:
        captions: Texts without nulls.
        config: ``languages``, at least one, and ``min_language_score``.
    """
    fallen = (
        score(caption, config.languages) < config.min_language_score
        for caption in captions.to_pylist()
    )
    return pa.array([OTHER_LANGUAGE if each else None for each in fallen], pa.string())


def score(caption: str, languages: tuple[str, ...]) -> float:
    """Probability in [0, 1] that a caption is in one of the languages."""
    ranked = dict(_identifier().rank(caption))
    return sum(ranked[code] for code in languages)


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def most_likely(caption: str) -> tuple[str, float]:
    """The language in which a caption is most probably written, and that probability."""
    code, probability = _identifier().classify(caption)
    return code, float(probability)
