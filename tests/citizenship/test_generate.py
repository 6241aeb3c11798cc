"""transformers' own `generate` on a saved folder: greedy, beams, sampling, streaming; from media arguments and from a chat."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, TextIteratorStreamer

sys.path.insert(0, str(Path(__file__).parent))
from citizens import QUESTION, QUICK, SLOW, WORDS, assembled, chat, citizen, image, picture, png, prepared, rows, sound, wav

from chiasm.types import BadInput


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(cell, marks=pytest.mark.slow) for cell in SLOW)], ids=" ".join)
def saved(request, tmp_path_factory):
    """(model, processor, the same loaded from the folder that they were saved to); nothing here changes them."""
    model, processor = citizen(*request.param)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def test_every_way_of_decoding_on_what_was_loaded(saved):
    model, processor, again, reader = saved
    inputs = reader(text=[QUESTION, WORDS[1]], images=[image(0), image(1)], audio=[sound(0), sound(1)], return_tensors="pt", padding=True)
    assert set(inputs) == set(prepared(processor, [0, 1]))
    for settings in (
        {"do_sample": False},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": True, "temperature": 0.7, "top_k": 5},
        {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2},
    ):
        written = []
        for machine in (model, again):
            torch.manual_seed(3)
            written.append(machine.generate(**inputs, **settings, max_new_tokens=4))
        assert torch.equal(*written) and written[0].shape[1] > inputs["input_ids"].shape[1]
    manual = inputs["input_ids"], inputs["attention_mask"]
    greedy = again.generate(**inputs, max_new_tokens=4, do_sample=False)
    media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    for _ in range(4):
        logits = again(input_ids=manual[0], attention_mask=manual[1], **media).logits[:, -1]
        logits[:, again.generation_config.suppress_tokens or []] = -torch.inf
        ended = (manual[0][:, inputs["input_ids"].shape[1] :] == again.config.eos_token_id).any(1)
        chosen = torch.where(ended, again.config.pad_token_id, logits.argmax(-1)).unsqueeze(1)
        manual = torch.cat([manual[0], chosen], 1), torch.cat([manual[1], torch.ones_like(chosen)], 1)
    assert torch.equal(greedy, manual[0][:, : greedy.shape[1]])


def test_streaming(saved):
    _, _, again, reader = saved
    inputs = reader(text=QUESTION, images=image(0), audio=sound(0))
    streamer = TextIteratorStreamer(reader.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = Thread(target=again.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 5, "do_sample": False})
    thread.start()
    pieces = list(streamer)
    thread.join()
    new = again.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert len(pieces) > 1 and "".join(pieces).strip() == reader.batch_decode(new, skip_special_tokens=True)[0].strip()


@torch.no_grad()
def test_generate_may_be_given_the_tokenizer(saved):
    """For stop strings, and by `transformers serve` at all times; it is no argument of the model."""
    _, _, again, reader = saved
    inputs = reader(text=QUESTION, images=image(0))
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(again.generate(**inputs, **settings, tokenizer=reader.tokenizer), again.generate(**inputs, **settings))


def forms(folder: Path) -> list[list[dict]]:
    """The same picture and sound as a message may hold them."""
    (folder / "a.png").write_bytes(png())
    (folder / "a.wav").write_bytes(wav())
    image64, audio64 = base64.b64encode(png()).decode(), base64.b64encode(wav()).decode()
    return [
        [{"type": "image", "image": image()}, {"type": "audio", "audio": sound(0)}],
        [{"type": "image", "image": picture(0)}, {"type": "audio", "audio": wav()}],
        [{"type": "image", "path": str(folder / "a.png")}, {"type": "audio", "path": str(folder / "a.wav")}],
        [{"type": "audio", "base64": audio64}, {"type": "image", "base64": image64}],  # in any order
        [{"type": "image", "url": f"data:image/png;base64,{image64}"}, {"type": "audio", "url": f"data:audio/wav;base64,{audio64}"}],
        [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image64}"}},
            {"type": "input_audio", "input_audio": {"data": audio64, "format": "wav"}},
        ],
    ]


@torch.no_grad()
def test_a_chat_is_the_prompt_of_training(saved, tmp_path):
    """Whatever form the media have, a chat gives the ids and tensors of the task's own path, and so the same answer."""
    _, _, again, reader = saved
    own, _ = again.tasks["answer"].collate(rows(1), reader)
    prompt = own["input_ids"][0, : own["prompt_lengths"][0]]
    expected = reader(text=QUESTION, images=image(), audio=sound(0))
    assert torch.equal(expected["input_ids"][0], prompt)
    for media in forms(tmp_path):
        messages = chat(*media)
        found = reader.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
        assert all(torch.allclose(found[key].float(), value.float(), atol=1e-6) for key, value in expected.items())
        assert messages == chat(*media)  # untouched
    written = again.generate(**found, max_new_tokens=4, do_sample=False)
    assert torch.equal(written, again.generate(**expected, max_new_tokens=4, do_sample=False))


def test_an_answered_chat_is_the_sequence_of_training_and_marks_what_is_learned(saved):
    _, _, again, reader = saved
    own, targets = again.tasks["answer"].collate(rows(1), reader)
    messages = chat({"type": "image", "image": image()}, {"type": "audio", "audio": sound(0)}, answer="yes")
    found = reader.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert torch.equal(found["input_ids"], own["input_ids"])
    assert torch.equal(found["assistant_masks"].bool(), targets["labels"] != -100)
    longer = [*messages, {"role": "user", "content": "and a dog ?"}]
    text = reader.apply_chat_template(longer)
    assert text.endswith(f"user: {QUESTION}\nassistant: yes\nuser: and a dog ?")


def test_several_chats_with_different_media(saved):
    _, _, again, reader = saved
    chats = [chat({"type": "image", "image": image(1)}), chat(), chat({"type": "audio", "audio": sound(1)})]
    found = reader.apply_chat_template(chats, tokenize=True, return_dict=True)
    assert found["image_index"].tolist() == [[0], [-1], [-1]] and found["audio_index"].tolist() == [[-1], [-1], [0]]
    with torch.no_grad():
        together = again(**found).logits[:, -1]
        for row, messages in enumerate(chats):
            alone = reader.apply_chat_template([messages], tokenize=True, return_dict=True)
            torch.testing.assert_close(together[row], again(**alone).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_a_prompt_with_words_of_its_own():
    """What stands around the user's words in training stands around them in a chat, media where the prompt places them."""
    tasks = {"answer": {"type": "generate", "prompt": "{audio} {question} answer :", "target": "{answer}"}}
    model, processor = assembled({"type": "early"}, "gpt2", tasks=tasks)
    own, _ = model.tasks["answer"].collate(rows(1), processor)
    media = {"type": "image", "image": image()}, {"type": "audio", "audio": sound(0)}
    assert processor.apply_chat_template(chat(*media)) == f"<s><image><audio> {QUESTION} answer :"
    found = processor.apply_chat_template(chat(*media), tokenize=True)
    assert torch.equal(found[0], own["input_ids"][0, : own["prompt_lengths"][0]])


def test_a_message_cannot_open_files_or_addresses():
    _, processor = citizen("early", "gpt2")
    for url in ("https://example.org/a.png", "/etc/hostname", "file:///etc/hostname"):
        for part in ({"type": "image", "url": url}, {"type": "image_url", "image_url": {"url": url, "path": "/etc/hostname"}}):
            with pytest.raises(BadInput, match="a message's url must be a data URI"):
                processor.apply_chat_template(chat(part), tokenize=True)
    with pytest.raises(BadInput, match="cannot be decoded"):
        processor.apply_chat_template(chat({"type": "image", "url": "data:image/png;base64,?"}), tokenize=True)


def test_settings_of_a_call_do_what_they_say(tmp_path):
    _, processor = citizen("early", "gpt2")
    both = [QUESTION, WORDS[2]]
    right = processor(text=both, padding_side="right", pad_to_multiple_of=8)
    assert right["input_ids"].shape[1] % 8 == 0 and right["attention_mask"][0].tolist() == sorted(right["attention_mask"][0].tolist())[::-1]
    assert processor(text=both, padding="max_length", max_length=32)["input_ids"].shape == (2, 32)
    assert processor(text=both, text_kwargs={"truncation": True, "max_length": 5})["input_ids"].shape == (2, 5)
    with pytest.raises(ValueError, match="would cut off a picture"):
        processor(text=both, images=[image(), image()], truncation=True, max_length=3)
    bare = processor(text=QUESTION, add_special_tokens=False)["input_ids"][0]
    assert torch.equal(processor(text=QUESTION)["input_ids"][0][1:], bare)
    soundfile.write(tmp_path / "high.wav", np.repeat(sound(0), 2), 16000)
    arrays = processor(text=QUESTION, audio=np.repeat(sound(0), 2), sampling_rate=16000)["input_values"]
    assert torch.allclose(arrays, processor(text=QUESTION, audio=str(tmp_path / "high.wav"))["input_values"], atol=1e-3)
    with pytest.raises(ValueError, match="makes torch tensors"):
        processor(text=QUESTION, return_tensors="np")
