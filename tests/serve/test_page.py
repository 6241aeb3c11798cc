"""The page at `/`, as a person uses it: in a real browser, with a mouse, with keys alone, on a phone, in both languages."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from tiny_server import DIALOGUE, WORDS, clip, moving, png, running, slowed, tiny_run
from visits import MEASURE, PICTURE, answer_of, ask, give_reasons, table

import chiasm
from chiasm.serve.routes.pages import PAGE

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, as in the extra dev")


# ---- a visit


def test_ask_with_a_picture_and_see_why(run, server, visit):
    page = visit(server)
    assert page.inner_text("h1") == "tiny" and page.title() == "tiny · Chiasm"
    assert page.locator("#reads > span").all_inner_texts() == ["picture", "sound", "video", "question (words)"]
    assert ask(page) == run.answer(question=WORDS[0], image=png(1))
    assert page.inner_text("#announcer").endswith(page.inner_text(".answer"))
    give_reasons(page)
    wanted = chiasm.explain(run, {"question": WORDS[0], "image": png(1)}, task="answer", target=page.inner_text(".answer")).to_json()
    shown = [float(text) for text in page.locator(".reasons > .signed .value").all_inner_texts()]
    assert shown == pytest.approx([part["value"] for part in wanted["modalities"]], abs=2e-3)
    coloured = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((value, i) => i % 4 == 3 && value).length"
    assert page.eval_on_selector(".heat canvas", coloured) > 0
    page.locator(".heat input").fill("0")
    assert page.eval_on_selector(".heat canvas", "c => getComputedStyle(c).opacity") == "0"
    assert page.locator("mark").all_inner_texts() == WORDS[0].split()
    verdict = page.inner_text(".verdict")
    check = wanted["check"]
    assert ("not better than chance" in verdict) == (check is not None and not check["better"])
    assert ("Not checked" in verdict) == (check is None)


def test_search_and_go_on_with_what_was_found(server, visit):
    page = visit(server)
    page.click("#tab-search")
    page.fill("#search-words", "yes")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found li")
    found = server.post("/v1/search", {"model": "tiny", "query": "yes", "k": 12}).json["data"]
    assert page.locator("#found .score").all_inner_texts() == [f"{hit['score']:.3f}" for hit in found]
    assert page.eval_on_selector_all("#found img", "all => all.every((img) => img.naturalWidth > 0)")
    page.locator("#found button").first.focus()
    page.keyboard.press("Enter")
    page.click("#hit button:first-child")  # search with this
    page.wait_for_selector("#search-tray img")
    assert page.input_value("#search-words") == ""
    page.locator("#search-find").select_option("image")
    page.click("#search-form [type=submit]")
    playwright.expect(page.locator("#found .score").first).to_have_text("1.000")
    page.locator("#found button").first.click()
    page.click("#hit button:nth-child(2)")  # ask about this
    page.wait_for_selector("#tray .given img")
    assert page.locator("#panel-ask").is_visible()


def test_the_report_is_shown_and_runs_nothing(server, visit):
    page = visit(server, logs="Blocked script execution")
    report = "<title>report</title><p id=p>scores</p><script>p.textContent = 'ran'</script>"
    page.route("**/v1/report", lambda route: route.fulfill(body=report, content_type="text/html"))
    page.click("#tab-report")
    assert page.frame_locator("#report").locator("#p").inner_text() == "scores"


def test_where_there_is_no_index_there_is_no_search(client, visit):
    page = visit(client)
    page.wait_for_selector("#composer")
    assert page.locator("[role=tab]:visible").all_inner_texts() == ["Ask", "Report"]


def test_a_language_is_switched_and_remembered(server, visit):
    page = visit(server)
    ask(page)
    page.select_option("#language", "zh")
    assert page.inner_text("#ask") == "提问" and page.inner_text(".why") == "为什么这样回答？"
    assert page.get_attribute("html", "lang") == "zh-Hans"
    page.reload()
    page.wait_for_selector("#composer")
    assert page.inner_text("#ask") == "提问" and page.get_attribute("#question", "placeholder") == "想知道什么？"
    chinese = visit(server, locale="zh-CN")
    chinese.wait_for_selector("#composer")
    assert chinese.input_value("#language") == "zh"


def test_keys_alone(run, server, visit):
    page = visit(server)
    page.wait_for_selector("#composer")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.type(WORDS[2])
    page.keyboard.press("Enter")
    assert answer_of(page) == run.answer(question=WORDS[2])
    assert page.evaluate("document.activeElement.id") == "question"
    while page.evaluate("document.activeElement.className") != "plain why":
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    page.keyboard.press("Enter")
    page.wait_for_selector(".reasons .signed")
    page.focus("#tab-ask")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-search" and page.locator("#panel-search").is_visible()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-report"
    named = "(e.ariaLabel || e.labels?.length || e.textContent.trim())"
    unnamed = f"all => all.filter((e) => e.checkVisibility() && !{named}).map((e) => e.outerHTML)"
    for tab in ("ask", "search"):
        page.click(f"#tab-{tab}")
        assert page.eval_on_selector_all("main :is(button, select, textarea, input:not([type=file]))", unnamed) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_all_is_legible(server, visit, scheme):
    page = visit(server, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.wait_for_selector("#composer")
    assert page.evaluate("shifts") < 0.01
    ask(page, WORDS[2])
    give_reasons(page)
    page.locator(".reasons summary").first.click()
    for language in ("en", "zh"):
        page.select_option("#language", language)
        for tab in ("report", "search", "ask"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") == 360, (language, tab)
            faint = [row for row in page.evaluate(MEASURE) if row[0] < 4.5]
            assert not faint


# ---- what goes into a question


def test_sounds_are_recorded_dropped_and_played(run, server, visit):
    page = visit(server)
    page.click(".microphone")
    page.wait_for_selector(".microphone.live")
    page.wait_for_timeout(400)
    page.click(".microphone")
    page.wait_for_selector(".given audio")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, WORDS[1], picture=False)
    part = sent.value.post_data_json["messages"][0]["content"][1]
    assert part["input_audio"]["format"] == "wav" and base64.b64decode(part["input_audio"]["data"])[:4] == b"RIFF"
    drop = """([data, type, name]) => {
      const files = new DataTransfer();
      files.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
      window.dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
    }"""
    for name, kind, data in (("clip.flac", "audio/flac", clip(1, "FLAC")), ("moving.gif", "image/gif", moving(1))):
        page.evaluate(drop, [base64.b64encode(data).decode(), kind, name])
        page.wait_for_selector(f"[aria-label='Remove {name}']")
    assert page.locator(".given audio").count() == 1  # the new one in the old one's place
    assert ask(page, WORDS[1], picture=False) == run.answer(question=WORDS[1], audio=clip(1, "FLAC"), image=moving(1))
    give_reasons(page)
    assert page.locator(".strip rect.for, .strip rect.against").count() > 1


def test_a_conversation_goes_on(tmp_path, visit):
    talks = tiny_run(tmp_path, **DIALOGUE)
    with running(talks) as other:
        page = visit(other)
        first = ask(page, WORDS[1])
        assert page.locator("#tray .given li").count() == 0
        with page.expect_request("**/v1/chat/completions") as sent:
            second = ask(page, WORDS[0], picture=False)
        messages = sent.value.post_data_json["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user"] and messages[1]["content"] == first
        assert second == talks.answer(question=WORDS[0], image=png(1), history=[{"question": WORDS[1], "answer": first}])
        page.click("#fresh")
        assert page.locator(".turn").count() == 0
        page.close()


def test_fields_for_what_no_message_can_hold(client, visit):
    run = client.get("/v1/models").json["data"][0]
    run |= {"inputs": {"left": "image", "right": "image", "question": "text", "context": "text", "sizes": "features", "table": "table"}}
    run |= {"texts": ["question", "context"], "columns": ["price"], "media": {"image": ["left", "right"]}, "several": ["right"]}
    page = visit(client, logs="Failed to load")
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [run]}))
    page.reload()
    page.set_input_files(".add-image + input", [{**PICTURE, "name": f"{i}.png"} for i in range(3)])
    page.wait_for_selector(".given li:nth-child(3)")
    page.locator(".given select").last.select_option("right")
    page.get_by_label("context").fill("near the bridge")
    page.get_by_label("price").fill("12.5")
    page.get_by_label("sizes").fill("[1, oops")
    page.fill("#question", "which ?")
    page.click("#ask")
    assert "sizes" in page.inner_text("#complaint")
    page.get_by_label("sizes").fill("[1, 2]")
    page.locator("#composer .row summary").click()
    page.get_by_label("Temperature").fill("0.5")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click("#ask")
    body = sent.value.post_data_json
    assert body["inputs"] == {"context": "near the bridge", "price": "12.5", "sizes": [1, 2]} and body["temperature"] == 0.5
    assert [part.get("input") for part in body["messages"][0]["content"]] == [None, "left", "right", "right"]


# ---- when something is in the way


def test_an_answer_is_stopped(run, server, visit):
    page = visit(server)
    with slowed(run, 0.2):
        page.locator("#composer .row summary").click()
        page.get_by_label("Longest answer").fill("200")
        page.fill("#question", WORDS[0])
        page.click("#ask")
        playwright.expect(page.locator(".answer")).not_to_be_empty()
        page.click("#stop")
        page.wait_for_selector("text=Stopped.")
    assert page.locator("#ask").is_visible() and not page.locator("#stop").is_visible()
    assert page.inner_text(".answer")


def test_errors_are_sentences(server, visit):
    page = visit(server, logs="Failed to load")
    page.click("#ask")
    assert page.inner_text("#complaint") == "Give it something to answer: words or a file."
    page.set_input_files(".add-image + input", {**PICTURE, "buffer": b"no picture"})
    page.click("#ask")
    page.wait_for_selector(".turn .problem")
    said = server.chat(WORDS[0], {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gcGljdHVyZQ=="}}).error["message"]
    assert page.inner_text(".turn .problem").lower().rstrip(".") == said.lower().rstrip(".")
    page.context.set_offline(True)
    page.fill("#question", WORDS[0])
    page.click("#ask")
    page.wait_for_selector("text=The server cannot be reached.")
    assert page.input_value("#question") == WORDS[0]  # to be asked again
    page.context.set_offline(False)


def test_a_key_is_asked_for_and_kept_for_the_session_alone(run, visit):
    with running(run) as guarded:
        page = visit(guarded, logs="401")
        page.wait_for_selector("#composer")
        guarded.server.config.app.app.keys = ("schlüssel 1".encode(),)  # the server was started again, with a key
        ask_without = [page.fill("#question", WORDS[0]), page.click("#ask"), page.wait_for_selector("#key-value")]
        assert ask_without and "API key" in page.inner_text(".turn .problem")
        page.fill("#key-value", "wrong")
        page.click("#key [type=submit]")
        page.click("#ask")
        page.wait_for_selector("text=That key is not known")
        page.fill("#key-value", "schlüssel 1")
        page.click("#key [type=submit]")
        assert ask(page) == run.answer(question=WORDS[0], image=png(1))
        stores = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
        assert "schlüssel" not in stores[0] and "schlüssel" in stores[1]
        page.close()
        person = visit(guarded, http_credentials={"username": "me", "password": "schlüssel 1"})
        assert ask(person) == run.answer(question=WORDS[0], image=png(1))
        person.close()


# ---- files


def test_both_languages_say_everything():
    english, chinese = table("en"), table("zh")
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert text and chinese[key]
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
    code = "".join(file.read_text("utf-8") for file in PAGE.iterdir() if file.suffix in (".js", ".html") and file.name != "texts.js")
    composed = re.compile(r"(kind|add)_\w+")
    assert not [key for key in english if not composed.fullmatch(key) and f'"{key}"' not in code], "texts that nothing says"
    assert set(re.findall(r'data-t(?:-\w+)?="(\w+)"', code)) <= set(english)


def test_nothing_on_the_page_comes_from_elsewhere(client):
    for file in PAGE.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w+/", text), file.name
        assert client.get(f"/page/{file.name}").status == 200
    index = client.get("/")
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|style=", index.body.decode())
    policy = index.headers["content-security-policy"]
    assert "default-src 'self';" in policy and "script-src" not in policy  # scripts are the server's own files
    assert client.get("/page/style.css").body == (Path(chiasm.__file__).parent / "report" / "style.css").read_bytes()
    for name in ("app.py", "..%2fapp.py", "..%2f..%2freport%2fhtml.py", ".", ""):
        assert client.get(f"/page/{name}").status == 404
