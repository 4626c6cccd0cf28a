"""Reads a page as a browser would, and refuses what is not closed."""

from html.parser import HTMLParser

VOID = {"meta", "img", "line", "circle", "polyline", "rect", "br"}


class Checker(HTMLParser):
    """Every opened element is closed, in order; collects what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.sources = [], set(), [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.sources += [values["src"]] if "src" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker
