"""Matching as its rules say it, one query after the other: what the matcher must equal."""

import html
import unicodedata

import regex


def literal(caption):
    """The published rule, word for word: wrap seven marks in spaces, then white space."""
    for mark in ",.;:?!`":
        caption = caption.replace(mark, f" {mark} ")
    return caption.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def normalised(text):
    """Words and signs of the folded text, one space between two."""
    folded = unicodedata.normalize("NFC", html.unescape(text)).casefold()
    return " ".join(regex.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFC", folded)))


def find(queries, captions, profile):
    """Ids per caption: a query matches where it stands between spaces in the padded caption."""
    form, of_query = (literal, str) if profile == "literal" else (normalised, normalised)
    padded = [f" {of_query(query)} " for query in queries]
    texts = [f" {form(caption)} " for caption in captions]
    return [[index for index, query in enumerate(padded) if query in text] for text in texts]
