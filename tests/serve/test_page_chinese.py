"""The page in Chinese: what the server says in English is said in Chinese there, by code, and an unknown code in the server's own words."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny_server import WORDS, png
from visits import MEASURE, PICTURE, ask, give_reasons, table

import chiasm
from chiasm.explain.baseline import FILLS
from chiasm.serve.errors import CODES
from chiasm.tasks.classify import Classify
from chiasm.tasks.contrast import Contrast
from chiasm.tasks.generate import Generate
from chiasm.tasks.match import Match
from chiasm.tasks.regress import Regress

SOURCE = Path(chiasm.__file__).parent
DATA = Path(__file__).parents[2] / "docs" / "data.md"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
EXPLAINED = (Generate, Classify, Match, Contrast, Regress)
BROKEN = {**PICTURE, "name": "broken.png", "buffer": png(1)[:-20]}


# ---- the texts


@cache
def calls(name: str) -> list[ast.Call]:
    """Every call of it in the source."""
    texts = (file.read_text("utf-8") for file in SOURCE.rglob("*.py"))
    nodes = (node for text in texts if f"{name}(" in text for node in ast.walk(ast.parse(text)))
    return [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name]


def constants(nodes: Iterable[ast.expr]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def error_codes() -> set[str]:
    """Every code of an error: those of the source, those that stand for a status, and the reasons that docs/data.md lists."""
    reasons = constants(call.args[0] for call in calls("BadInput") if call.args)
    own = constants(word.value for call in calls("Refused") for word in call.keywords if word.arg == "code")
    table_of_reasons = DATA.read_text("utf-8").partition("| reason |")[2]
    listed = {code for row in re.findall(r"^\| (`.*?) \|", table_of_reasons, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)}
    assert {"truncated", "not_read"} <= reasons & listed and {"loading", "too_deep"} <= own
    return reasons | own | listed | {*CODES.values(), "error"}


def test_every_code_has_a_chinese_sentence():
    chinese = table("zh", "server_texts.js")
    codes = error_codes()
    assert not {code for code in codes if f"error_{code}" not in chinese}, "codes without a sentence in page/server_texts.js"
    kinds = "(?:_(?:image|audio|video|text))?"
    known = re.compile(rf"error_(?:{'|'.join(sorted(codes, key=len, reverse=True))}){kinds}")
    assert not [key for key in chinese if key.startswith("error_") and not known.fullmatch(key)], "sentences for codes that nothing gives"
    for key, text in chinese.items():
        assert CHINESE.search(text) or key in ("named", "concerns"), key
        assert not key.startswith("error_") or ("{" not in text and text.endswith("。")), key


def test_every_other_sentence_has_a_chinese_one():
    chinese = table("zh", "server_texts.js")

    def with_prefix(prefix: str) -> set[str]:
        return {key.removeprefix(prefix) for key in chinese if key.startswith(prefix)}

    assert with_prefix("fill_") == set(FILLS)
    for key, text in FILLS.items():
        assert re.findall(r"\{\w+\}", chinese[f"fill_{key}"]) == re.findall(r"\{\w+\}", text)
    assert with_prefix("warning_") == constants(call.args[1] for call in calls("Note"))
    figures = {call.args[1].value: {word.arg for word in call.keywords} for call in calls("Note") if isinstance(call.args[1], ast.Constant)}
    assert all(set(re.findall(r"\{(\w+)\}", chinese[f"warning_{code}"])) <= names for code, names in figures.items())
    assert with_prefix("quantity_") == {kind.__name__.lower() for kind in EXPLAINED}


# ---- visits


@pytest.fixture
def chinese(visit: Any, server: Any) -> Any:
    page = visit(server, locale="zh-CN", logs="Failed to load")
    page.wait_for_selector("#composer")
    return page


def test_a_broken_picture_is_said_in_chinese_and_the_servers_words_are_folded_away(chinese, server):
    page = chinese
    page.set_input_files(".add-image + input", BROKEN)
    page.fill("#question", WORDS[0])
    page.click("#ask")
    page.wait_for_selector(".turn .problem")
    said = "图片“broken.png”：文件不完整，缺少后面的部分。请重新下载或重新保存后再试。"
    assert page.inner_text(".turn .problem > span") == said and page.inner_text("#announcer") == said
    own = page.locator(".turn .problem details p")
    assert not own.is_visible()
    page.click(".turn .problem summary")
    uri = f"data:image/png;base64,{base64.b64encode(BROKEN['buffer']).decode()}"
    message = server.chat(WORDS[0], {"type": "image_url", "image_url": {"url": uri}}).error["message"]
    assert own.inner_text().lower().rstrip(".") == message.lower().rstrip(".") and own.get_attribute("lang") == "en"
    page.select_option("#language", "en")
    assert page.inner_text(".turn .problem").lower().rstrip(".") == message.lower().rstrip(".")
    page.select_option("#language", "zh")
    assert page.inner_text(".turn .problem > span") == said


def test_an_explanation_is_in_chinese(chinese):
    page = chinese
    answer = ask(page)
    give_reasons(page)
    assert f"写出“{answer}”的对数概率" in page.inner_text(".reasons")
    reasons = page.inner_text(".reasons")
    assert "换成这张图片的平均颜色" in reasons and "略去" in reasons
    assert re.search(r"随机", page.inner_text(".verdict"))
    names = r"image|question|s\b|pictures?" + "|" + "|".join(re.escape(word) for word in [*WORDS[0].split(), *answer.split()])
    assert not re.findall(r"[A-Za-z]{2,}", re.sub(names, "", reasons))
    page.select_option("#language", "en")
    assert "log-probability of writing" in page.inner_text(".reasons") and "the picture's mean colour" in page.inner_text(".reasons")
    assert not CHINESE.search(page.inner_text(".reasons"))


def test_what_the_model_was_not_given_is_said_in_chinese(server, visit):
    run = server.get("/v1/models").json["data"][0] | {"history": True}  # as of a run with another task that reads earlier turns
    page = visit(server, locale="zh-CN")
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [run]}))
    page.reload()
    page.wait_for_selector("#composer")
    ask(page)
    ask(page, WORDS[2], picture=False)
    page.wait_for_selector("text=先前的消息没有交给它")
    page.select_option("#language", "en")
    assert "it was not given 2 earlier message(s)" in page.inner_text(".turn:last-child")


@pytest.mark.parametrize(
    ("code", "param", "wanted"),
    [
        ("corrupt", "messages.2.content.2", "第 2 张图片“b.png”：文件已损坏，无法解码。请重新下载或重新保存后再试。"),
        ("too_long", "messages.2.content.3", "声音“c.wav”：声音太长，超过了上限。请剪短后再试。"),
        ("empty", "messages.2.content.0", "文字：没有可读的文字。请写几个词，或者不填。"),
        ("empty", "messages", "没有可读入的内容。请给出此模型能读的文字或文件。"),
        ("truncated", "messages.0.content.0", "第 1 个问题里的图片“a.png”：文件不完整，缺少后面的部分。请重新下载或重新保存后再试。"),
        ("bad_shape", "inputs.sizes", "sizes：数据的形状不对。请检查数值的个数，或图片的尺寸。"),
        ("unknown_format", "image", "图片：文件内容不是能识别的图片。请转换成 PNG 或 JPEG 后再试。"),
        ("busy", None, "服务器正忙，排队的请求太多。请过几秒再试。"),
        ("never_heard_of", "messages.2.content.2", "What the server said."),
    ],
)
def test_an_error_names_what_it_is_about(chinese, code, param, wanted):
    found = chinese.evaluate(
        """async ([code, param]) => {
          const [{ sentence }, { Refusal }] = [await import("/page/errors.js"), await import("/page/server.js")];
          const { partOf } = await import("/page/media.js");
          const part = (kind, name) => partOf({ kind, name, blob: new Blob(["."]) });
          const first = [await part("image", "a.png")];
          const files = [part("image", "a.png"), part("image", "b.png"), part("audio", "c.wav")];
          const last = [{ type: "text", text: "?" }, ...(await Promise.all(files))];
          const messages = [["user", first], ["assistant", "yes"], ["user", last]].map(([role, content]) => ({ role, content }));
          return sentence(new Refusal(400, { message: "what the server said", code, param }), messages);
        }""",
        [code, param],
    )
    assert found == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_an_error_in_full(server, visit, scheme):
    page = visit(server, locale="zh-CN", logs="Failed to load", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.set_input_files(".add-image + input", BROKEN)
    page.click("#ask")
    page.wait_for_selector(".turn .problem")
    page.click(".turn .problem summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert not [row for row in page.evaluate(MEASURE) if row[0] < 4.5]
