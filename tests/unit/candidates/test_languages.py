import pyarrow as pa
import pytest

from pipeline.candidates import languages
from pipeline.candidates.config import CaptionFilterConfig
from pipeline.errors import ConfigError

CAPTIONS = {
    "en": "a brown dog lying on the green grass of a park",
    "de": "ein brauner Hund liegt auf dem grünen Gras eines Parks",
    "fr": "un chien brun couché sur l'herbe verte d'un parc",
    "ru": "коричневая собака лежит на зелёной траве в парке",
    "ja": "公園の緑の芝生に横たわる茶色の犬",
}


@pytest.mark.parametrize("wanted", [("en",), ("de",), ("fr", "ja"), tuple(CAPTIONS)])
def test_captions_of_the_wanted_languages_stay(wanted):
    config = CaptionFilterConfig(languages=wanted, min_language_score=0.5)
    column = pa.chunked_array([pa.array(list(CAPTIONS.values()))])
    expected = [None if code in wanted else "other_language" for code in CAPTIONS]
    assert languages.language_reasons(column, config).to_pylist() == expected


def test_the_score_is_of_all_wanted_languages_together_and_at_most_one():
    text = "blue circle"
    one, two = languages.score(text, ("en",)), languages.score(text, ("en", "it"))
    assert 0 < one < two < 1
    labels = tuple(languages._identifier().labels)
    assert languages.score(text, labels) == pytest.approx(1, abs=1e-3)


def test_the_default_threshold_keeps_short_english_captions_and_drops_other_sentences():
    config = CaptionFilterConfig(languages=("en",))
    short = ["red shoes size 42", "Stock photo of a cat", "a red circle on a grey background"]
    column = pa.array([*short, CAPTIONS["de"], CAPTIONS["fr"], CAPTIONS["ru"]])
    assert (
        languages.language_reasons(column, config).to_pylist()
        == [None] * 3 + ["other_language"] * 3
    )


def test_an_unknown_language_is_refused_before_work_starts():
    languages.check(CaptionFilterConfig(languages=("en", "zh")))
    with pytest.raises(ConfigError, match="py3langid does not know 'english'; it knows ace, af"):
        languages.check(CaptionFilterConfig(languages=("english",)))
