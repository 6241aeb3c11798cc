"""What a visit to the page at `/` is made of: what is done there, and how it is measured. The browser is in conftest.py."""

from __future__ import annotations

import json
import re
from typing import Any

from tiny_server import WORDS, png

from chiasm.serve.routes.pages import PAGE

PICTURE = {"name": "picture.png", "mimeType": "image/png", "buffer": png(1)}
MEASURE = """() => {
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const over = (colour, under) => {
    pen.fillStyle = `rgb(${under.join(" ")})`; pen.fillRect(0, 0, 1, 1);
    pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const below = (element) => element ? over(getComputedStyle(element).backgroundColor, below(element.parentElement)) : [255, 255, 255];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const aside = element.closest(".hidden-text, .skip, noscript, option, svg");
    if (aside || !texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const ground = below(element), ink = over(getComputedStyle(element).color, ground);
    const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), texts.currentNode.data.trim()]);
  }
  return found;
}"""


def ask(page: Any, words: str = WORDS[0], picture: bool = True) -> str:
    """Ask, and wait for the whole answer."""
    if picture:
        page.set_input_files(".add-image + input", PICTURE)
    turns = page.locator(".turn").count()
    page.fill("#question", words)
    page.click("#ask")
    return answer_of(page, turns + 2)


def answer_of(page: Any, turn: int = 2) -> str:
    page.wait_for_selector(f".turn:nth-child({turn}) .why")
    return page.inner_text(f".turn:nth-child({turn}) .answer")


def give_reasons(page: Any) -> None:
    page.click(".turn:last-child .why")
    page.wait_for_selector(".turn:last-child .part")


def table(language: str, file: str = "texts.js") -> dict[str, str]:
    """The texts of a language in one of the page's files."""
    source = (PAGE / file).read_text("utf-8")
    block = re.search(rf"^  {language}: {{\n(.*?)^  }},", source, re.MULTILINE | re.DOTALL)
    assert block is not None
    rows = [re.fullmatch(r'    (\w+): ("(?:[^"\\]|\\.)*"),', line) for line in block[1].splitlines() if line]
    assert all(rows)
    return {row[1]: json.loads(row[2]) for row in rows if row}
