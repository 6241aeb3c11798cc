"""Goal S6: writing text, against transformers on the same GPT-2 with the same weights.

- batch 1 and 32: the server's slots against `generate`, both from prompts that were read, 64 tokens each.
- served: 96 requests at once whose prompts and answers have geometric lengths; the engine, from texts, against `generate` on static
  batches of as many rows as the engine has slots, and against transformers' own continuous batching, both from token ids.

Prints the median over interleaved rounds of the ratio of process CPU time (theirs / ours, one thread). Every text must be the same.

    python bench/generation.py [--rounds 5] [--width 256] [--layers 6] [--slots 8] [--only batch-1,batch-32,served] [--compile]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

import chiasm
from chiasm.assemble import build
from chiasm.model_files import save_model
from chiasm.recipe import load_recipe
from chiasm.serve.engine import Engine
from chiasm.serve.work import Work
from chiasm.types import Sample

WANTED = {"batch-1": 1.15, "batch-32": 1.1, "served / static": 1.7}
WORDS = [f"w{i}" for i in range(4000)]
TOKENS, LONGEST = 64, 128


def models(folder: Path, width: int, layers: int) -> tuple[chiasm.Run, GPT2LMHeadModel]:
    """An untrained text model as a run, and the same weights in transformers' class with its default activation."""
    shape = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "n_positions": 512}
    recipe = {
        "inputs": {"question": "text"},
        "backbone": {"arch": "gpt2", **shape, "initializer_range": 0.05, "tokenizer": "words"},
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}"}},
    }
    torch.manual_seed(0)
    model, processor = build(load_recipe(recipe), [Sample("0", {"question": "w0", "answer": "w1"})], [" ".join(WORDS)])
    model.generation_config.eos_token_id = None  # a request says itself how long it is
    save_model(model, processor, folder / "model")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run = chiasm.load(folder)
    run.model.generation_config.eos_token_id = None
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=len(processor.tokenizer), **shape)).eval()
    weights = {f"transformer.{name}": value for name, value in run.model.model.language_model.state_dict().items()}
    missing, extra = peer.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not extra
    peer.tie_weights()
    peer.generation_config = GenerationConfig(pad_token_id=processor.tokenizer.pad_token_id, do_sample=False)
    return run, peer


class Peer:
    """transformers' side: token ids in, lists of token ids out."""

    def __init__(self, run: chiasm.Run, model: GPT2LMHeadModel):
        self.run, self.model, self.pad = run, model, run.processor.pad_id

    def prompts(self, works: list[Work]) -> list[list[int]]:
        task = self.run.tasks["answer"]
        return task.prompts([opened.sample for opened in self.run.open([work.parts for work in works])], self.run.processor)

    @torch.no_grad()
    def static(self, prompts: list[list[int]], limits: list[int], size: int) -> list[list[int]]:
        """Batches of `size` in order, each as long as its longest."""
        found = []
        for start in range(0, len(prompts), size):
            rows, limit = prompts[start : start + size], limits[start : start + size]
            longest = max(map(len, rows))
            ids = torch.tensor([[self.pad] * (longest - len(row)) + row for row in rows])
            mask = torch.arange(longest) >= torch.tensor([longest - len(row) for row in rows]).unsqueeze(1)
            new = self.model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=max(limit))[:, longest:]
            found += [row[:n] for row, n in zip(new.tolist(), limit, strict=True)]
        return found

    @torch.no_grad()
    def continuous(self, prompts: list[list[int]], limits: list[int], size: int) -> list[list[int]]:
        """transformers' continuous batching, begun and ended around the load."""
        manager = self.model.init_continuous_batching(generation_config=self.model.generation_config)
        manager.start()
        names = [manager.add_request(ids, max_new_tokens=n) for ids, n in zip(prompts, limits, strict=True)]
        done: dict[str, list[int]] = {}
        while len(done) < len(names):
            if (result := manager.get_result(timeout=1)) is not None and result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
            assert manager.is_running(), "transformers' continuous batching stopped"
        manager.stop(block=True)
        return [done[name] for name in names]


class Own:
    """Our side: what is to be written in, texts out."""

    def __init__(self, run: chiasm.Run, slots: int, compiler: str):
        self.engine = Engine(run, slots=slots, waiting=10_000, compiler=compiler)

    def side_by_side(self, rows: list[Any]) -> list[str]:
        """Prompts that were read, in the slots."""
        slots = self.engine.slots
        slots.admit(rows)
        while slots.rows:
            slots.step()
        return [row.ticket.wait(0).prediction.output for row in rows]

    def served(self, works: list[Work]) -> list[str]:
        """Requests to the running engine, all at once."""

        async def one(work: Work) -> str:
            return (await (await self.engine.submit(work)).result()).prediction.output

        async def every() -> list[str]:
            return await asyncio.gather(*map(one, works))

        return asyncio.run(every())


def load(count: int, seed: int) -> list[Work]:
    draws = np.random.default_rng(seed)
    prompts = np.minimum(draws.geometric(1 / 16, count) + 3, LONGEST)
    answers = np.minimum(draws.geometric(1 / 32, count), LONGEST)
    return [Work({"question": " ".join(draws.choice(WORDS, p))}, max_new_tokens=int(n)) for p, n in zip(prompts, answers, strict=True)]


def measured(title: str, ours: Callable[[], list[str]], theirs: Callable[[], list[list[int]]], processor: Any, rounds: int) -> None:
    """Interleaved rounds after one that warms up and compares the texts."""
    own, expected = ours(), texts(theirs(), processor)
    same, count = sum(a == b for a, b in zip(own, expected, strict=True)), len(expected)
    pairs = [(cpu_seconds(theirs), cpu_seconds(ours)) for _ in range(rounds)]
    ratio = statistics.median(peer / own for peer, own in pairs)
    peer_s, own_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    wanted = WANTED.get(title)
    goal = "" if wanted is None else f" (goal {wanted:g}): {'reached' if ratio >= wanted and same == count else 'MISSED'}"
    print(f"S6 {title}: {ratio:.2f}x; {peer_s:.2f} and {own_s:.2f} s CPU; {same} of {count} texts the same{goal}", flush=True)


def texts(ids: list[list[int]], processor: Any) -> list[str]:
    return [processor.decode_texts(torch.tensor([row]))[0] for row in ids]


def cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--width", type=int, default=256)
    arguments.add_argument("--layers", type=int, default=6)
    arguments.add_argument("--slots", type=int, default=8)
    arguments.add_argument("--requests", type=int, default=96)
    arguments.add_argument("--only", default="batch-1,batch-32,served")
    arguments.add_argument("--compile", action="store_true", help="our step compiled, as `chiasm serve --compile` does")
    options = arguments.parse_args()
    compiler = "inductor" if options.compile else ""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run, model = models(Path(folder), options.width, options.layers)
    peer, chosen = Peer(run, model), options.only.split(",")
    for size in (1, 32):
        if f"batch-{size}" in chosen:
            own = Own(run, size, compiler)
            works = [Work({"question": " ".join(WORDS[i : i + 16])}, max_new_tokens=TOKENS) for i in range(size)]
            prompts, limits = peer.prompts(works), [TOKENS] * size
            measured(
                f"batch-{size}",
                lambda own=own, works=works: own.side_by_side([own.engine._read(work) for work in works]),
                lambda prompts=prompts, limits=limits: peer.static(prompts, limits, len(prompts)),
                run.processor,
                options.rounds,
            )
    if "served" in chosen:
        own, works = Own(run, options.slots, compiler), load(options.requests, 0)
        own.engine.start()
        while not own.engine.ready:
            time.sleep(0.1)
        prompts, limits = peer.prompts(works), [work.max_new_tokens or 0 for work in works]
        for title, theirs in (("static", peer.static), ("continuous", peer.continuous)):
            measured(
                f"served / {title}",
                lambda: own.served(works),
                lambda theirs=theirs: theirs(prompts, limits, options.slots),
                run.processor,
                options.rounds,
            )
        own.engine.stop()


if __name__ == "__main__":
    main()
