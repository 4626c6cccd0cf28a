import pytest

from pipeline.errors import ConfigError
from pipeline.queries import wordnet

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
NOUNS = """\
02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 002 @ 02083346 n 0000 | a member
08524735 15 n 01 New_York 0 001 @ 08524735 n 0000 | a city
02085374 05 n 01 dog 1 001 @ 02083346 n 0000 | another sense
"""
ADJECTIVES = "00014358 00 a 02 alive(p) 0 live 1 001 ! 00095280 a 0101 | possessing life  \n"


def test_first_words_of_synsets_are_counted(tmp_path):
    (tmp_path / "data.noun").write_text(LICENCE + NOUNS)
    (tmp_path / "data.adj").write_text(LICENCE + ADJECTIVES)
    (tmp_path / "index.noun").write_text("ignored")
    assert wordnet.synset_names(str(tmp_path)) == {"dog": 2, "new york": 1, "alive": 1}


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds none of data\.noun"):
        wordnet.synset_names(str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds none of data\.noun"):
        wordnet.synset_names(str(tmp_path / "nothing"))
    (tmp_path / "data.noun").write_text("a,b,c\n")
    with pytest.raises(ConfigError, match=r"data\.noun:1: 'a,b,c' is no synset"):
        wordnet.synset_names(str(tmp_path))
