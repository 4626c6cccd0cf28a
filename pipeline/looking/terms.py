"""Words for people in English captions, by group: a short list, counted before and after filtering.

A caption counts for a group if it holds one of the group's terms as whole words, whatever their
case. Colours name people only together with a person (``black woman``). What is counted are words,
not people: a picture of a woman whose caption says ``portrait`` is not among them, and a caption
may use a word of people for something else. The rates show whether filters prefer some groups'
captions to others'; they do not show whom the pictures show. Other languages are not looked at.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

PERSONS = (
    *("people", "person", "persons", "man", "men", "woman", "women", "boy", "boys", "girl"),
    *("girls", "child", "children", "kid", "kids", "guy", "guys", "lady", "ladies"),
)
TERMS: dict[str, tuple[str, ...]] = {
    "women": (
        *("woman", "women", "girl", "girls", "lady", "ladies", "female", "females", "mother"),
        *("mothers", "mom", "moms", "daughter", "daughters"),
    ),
    "men": (
        *("man", "men", "boy", "boys", "gentleman", "gentlemen", "male", "males", "father"),
        *("fathers", "dad", "dads", "son", "sons", "guy", "guys"),
    ),
    "non-binary and trans people": ("non-binary", "nonbinary", "genderqueer", "transgender"),
    "gay, lesbian and bisexual people": ("gay", "gays", "lesbian", "lesbians", "bisexual", "lgbt"),
    "children": ("child", "children", "kid", "kids", "baby", "babies", "toddler", "toddlers"),
    "old people": ("elderly", "grandmother", "grandfather", "grandma", "grandpa"),
    "Black people": ("african american", "african-american", "african americans"),
    "White people": ("caucasian", "caucasians"),
    "African people": ("african", "africans"),
    "Asian people": ("asian", "asians"),
    "Hispanic and Latin American people": ("hispanic", "latino", "latina", "latinos", "latinas"),
    "Middle Eastern people": ("arab", "arabs", "middle eastern", "middle-eastern"),
    "Indigenous people": ("indigenous", "native american", "native americans", "aboriginal"),
    "Christians": ("christian", "christians"),
    "Muslims": ("muslim", "muslims"),
    "Jews": ("jew", "jews", "jewish"),
    "Hindus": ("hindu", "hindus"),
    "Buddhists": ("buddhist", "buddhists"),
    "disabled people": ("disabled", "wheelchair", "wheelchairs"),
}
"""Terms per group."""
BEFORE_PERSONS = {
    "Black people": ("black",),
    "White people": ("white",),
    "old people": ("old",),
    "disabled people": ("blind", "deaf"),
}
"""Words that count for a group where one of ``PERSONS`` follows."""
Mask = Bool[np.ndarray, " caption"]
_EDGE = r"[^\p{L}\p{N}_]"


def holds(captions: pa.ChunkedArray) -> dict[str, Mask]:
    """Which captions hold a term of each group."""
    any_of_them = _matches(captions, "|".join(map(_pattern, TERMS)))
    places = np.flatnonzero(any_of_them)
    few = captions.take(pa.array(places))
    found = {}
    for group in TERMS:
        found[group] = np.zeros(len(captions), bool)
        found[group][places] = _matches(few, _pattern(group))
    return found


def _pattern(group: str) -> str:
    terms = [re.escape(term) for term in TERMS[group]]
    if group in BEFORE_PERSONS:
        terms.append(f"(?:{'|'.join(BEFORE_PERSONS[group])}) (?:{'|'.join(PERSONS)})")
    return "|".join(terms)


def _matches(captions: pa.ChunkedArray, pattern: str) -> Mask:
    """Whether a pattern stands in each caption, as whole words."""
    options = pc.MatchSubstringOptions(
        rf"(?:^|{_EDGE})(?:{pattern})(?:{_EDGE}|$)", ignore_case=True
    )
    found = pc.call_function("match_substring_regex", [captions], options)
    return np.asarray(found.to_numpy(), bool)


def in_words(group: str) -> str:
    """A group's terms as people write them."""
    persons = (f"{word} + person" for word in BEFORE_PERSONS.get(group, ()))
    return ", ".join([*TERMS[group], *persons])
