"""The likelihood of 200 answers by the local engine against a plain batched loop over the same texts in the order they are given.

The loop is what the papers' code does: batches of 16, padded to the longest, `model(...)` with all its logits, a log-softmax and a sum.
Answers are of mixed length, most of them short; each is asked for after its prompt and on its own. Both sides must agree.
By default the network is random, with SmolLM2-135M's proportions of head and layers at a tenth of its size; `--weights` runs a real one.
Prints the median ratio of pairs and exits with 1 below the target.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdbuild.records import Message
from kdbuild.teachers import Ask
from kdbuild.teachers._generate import Engine
from kdbuild.teachers.fake import Fake
from kdbuild.training.models import load_causal_lm, load_tokenizer

TARGET = 1.3
NUM_ANSWERS, SIZE = 200, 16
TEXT = "a river carries sand and stones from the hills to the plain where it slows and lets them fall"
WORDS = TEXT.split()


def network(weights: Path | None):
    """Return a model and its tokenizer."""
    if weights is not None:
        return load_causal_lm(weights), load_tokenizer(weights)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=12_288, max_position_embeddings=4096, **shape)
    return LlamaForCausalLM(config).eval(), Fake().load(Path(), None)[1]


def asks(scale: float) -> list[Ask]:
    """Return two questions an answer, in no order of length; the median answer has 8 `scale` words."""
    rng = random.Random(0)
    found = []
    for i in range(NUM_ANSWERS):
        text = " ".join(rng.choice(WORDS) for _ in range(max(1, min(int(40 * scale), int(rng.lognormvariate(2.1, 0.9) * scale)))))
        prompt = Message("user", f"Question {i}: " + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(2, 12))))
        found += [Ask(f"row-{i}", turns, choices=(text,)) for turns in ((prompt,), ())]
    return found


def ours(model, tokenizer, questions: list[Ask], batch_tokens: int) -> list[float]:
    """Return log-probabilities by kdbuild's engine."""
    answers = dict(Engine(model, tokenizer, batch_tokens=batch_tokens).generate(questions))
    return [answers[i].logprobs[0] for i in range(len(questions))]


@torch.inference_mode()
def plain(model, tokenizer, questions: list[Ask]) -> list[float]:
    """Return log-probabilities by batches in the order given."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    rows = []
    for ask in questions:
        turns = [{"role": m.role, "content": m.content} for m in ask.messages]
        written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if turns else ""
        before = tokenizer(written, add_special_tokens=False)["input_ids"] if turns else [first]
        rows.append((before, tokenizer(ask.choices[0], add_special_tokens=False)["input_ids"]))
    found: list[float] = []
    for start in range(0, len(rows), SIZE):
        group = rows[start : start + SIZE]
        width = max(len(before) + len(text) for before, text in group)
        ids = torch.tensor([before + text + [0] * (width - len(before) - len(text)) for before, text in group])
        mask = torch.tensor([[t < len(before) + len(text) for t in range(width)] for before, text in group]).long()
        logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        for (before, text), row in zip(group, logprobs, strict=True):
            found.append(float(row[len(before) - 1 : len(before) + len(text) - 1].double().sum()))
    return found


def timed(measure, *arguments) -> tuple[float, list[float]]:
    """Return seconds, and what came of it."""
    start = time.perf_counter()
    found = measure(*arguments)
    return time.perf_counter() - start, found


def main() -> int:
    """Compare in pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--scale", type=float, default=5.0, help="5 is for a tokenizer of words, as the real one; 1 for one of bytes")
    arguments = parser.parse_args()
    model, tokenizer = network(arguments.weights)
    questions = asks(arguments.scale if arguments.weights else 1.0)
    ours(model, tokenizer, questions[:4], 1000)
    ratios = []
    for _ in range(arguments.pairs):
        mine_s, mine = timed(ours, model, tokenizer, questions, arguments.batch_tokens)
        theirs_s, theirs = timed(plain, model, tokenizer, questions)
        worst = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
        print(f"engine {mine_s:.1f} s, plain batches of {SIZE} {theirs_s:.1f} s, ratio {theirs_s / mine_s:.2f}", end="; ")
        print(f"largest difference {worst:.1e} nats", flush=True)
        assert worst < 1e-2, "the two did not do the same work"
        ratios.append(theirs_s / mine_s)
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.2f}, target {TARGET}: {'met' if ratio >= TARGET else 'MISSED'}")
    return int(ratio < TARGET)


if __name__ == "__main__":
    sys.exit(main())
