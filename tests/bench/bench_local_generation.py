"""Tokens per second of the local engine against length-sorted static batches through transformers' own `generate`.

48 prompts of mixed length, at most 64 tokens each, greedy, one model loaded once. Both give the same tokens up to near ties of the
likeliest two. Prints the median ratio of pairs and fails where ours is slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from kdbuild.records import Message
from kdbuild.teachers import Ask
from kdbuild.teachers._generate import Engine
from kdbuild.training.models import load_causal_lm, load_tokenizer

LIMIT = 64
PASSAGE = "A river carries sand and stones from the hills down to the plain, and where it slows it lets them fall. "
QUESTIONS = (
    "Say yes.",
    "What is the capital of France? Answer with one word.",
    "Why do leaves fall in autumn? Explain it in detail.",
    f"{PASSAGE * 2}What does a river carry? Answer in one short sentence.",
    f"{PASSAGE * 6}Retell this as a story for children.",
    f"{PASSAGE * 12}How many times did I say so?",
)


def asks() -> list[Ask]:
    """Return the questions, in no order of length."""
    return [Ask(f"row-{i}", (Message("user", f"{QUESTIONS[i % 6]} (Question {i}.)"),), LIMIT) for i in range(48)]


def ours(model, tokenizer, prompts: list[Ask], batch_tokens: int) -> dict[int, tuple[str, int]]:
    """Answer with kdbuild's engine; return text and number of tokens."""
    engine = Engine(model, tokenizer, batch_tokens=batch_tokens)
    return {index: (answer.text, answer.num_new_tokens) for index, answer in engine.generate(prompts)}


def static(model, tokenizer, prompts: list[Ask], size: int) -> dict[int, tuple[str, int]]:
    """Answer in batches of `size` prompts of like length."""
    turns = [[{"role": m.role, "content": m.content} for m in ask.messages] for ask in prompts]
    texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in turns]
    order = sorted(range(len(texts)), key=lambda i: len(tokenizer(texts[i])["input_ids"]))
    found = {}
    for start in range(0, len(order), size):
        group = order[start : start + size]
        batch = tokenizer([texts[i] for i in group], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=LIMIT, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        for i, row in zip(group, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            length = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            found[i] = tokenizer.decode(row[:length], skip_special_tokens=True), length
    return found


def rate(answer, *arguments) -> tuple[float, dict[int, tuple[str, int]]]:
    """Return tokens per second, and the answers."""
    start = time.perf_counter()
    found = answer(*arguments)
    return sum(length for _, length in found.values()) / (time.perf_counter() - start), found


def main() -> int:
    """Compare in pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=Path("artifacts/models/smollm2/weights"))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--size", type=int, default=16, help="prompts in a static batch")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    model, tokenizer = load_causal_lm(arguments.weights), load_tokenizer(arguments.weights)
    prompts = asks()
    ours(model, tokenizer, prompts[:2], 1000)
    ratios = []
    for _ in range(arguments.pairs):
        mine, found = rate(ours, model, tokenizer, prompts, arguments.batch_tokens)
        theirs, expected = rate(static, model, tokenizer, prompts, arguments.size)
        same = sum(found[i] == expected[i] for i in found)
        lengths = [length for _, length in found.values()]
        print(f"engine {mine:.1f}, static batches of {arguments.size} {theirs:.1f} tokens/s, ratio {mine / theirs:.2f}", end="; ")
        print(f"{same} of {len(prompts)} answers equal, {sum(lengths)} tokens, shortest {min(lengths)}")
        assert same >= 0.9 * len(prompts), "the two did not do the same work"
        ratios.append(mine / theirs)
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.2f}: {'as fast or faster' if ratio >= 1 else 'SLOWER'}")
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
