"""Reads a page as a browser would: tags must nest, and what is seen and what is linked can be asked for."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "line", "circle", "polyline"}


class Checker(HTMLParser):
    """Collects addresses, anchors and visible text; fails on tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags, self.text = [], [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        self.addresses += [found[a] for a in ("src", "href", "xlink:href") if a in found]
        self.ids |= {found["id"]} if "id" in found else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read(page: str, *, between: str = "") -> tuple[Checker, str]:
    """(what the page is made of, its visible text); `between`: what stands between two pieces of text."""
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker, " ".join(between.join(checker.text).split())
