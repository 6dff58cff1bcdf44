"""Extra peak memory and CPU time of the chunked forward KL against the naive formula: 1,024 tokens x 49,152 words, 576 wide.

Each measurement is a fresh process: one small run first (imports, allocator, thread pools), the peak counter reset, then the real run.
Prints the ratios of medians and fails where chunked needs more than 1/8 of the naive extra memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOKENS, WORDS, WIDTH = 1024, 49_152, 576
LIMIT = 1 / 8


def naive(student, teacher, temperature):
    """Forward KL as trainers compute it (TRL's GKD at beta 0, in its order): both models' logits are there, then the loss is formed."""
    import torch

    student_logits = student.hidden_TD @ student.weight_VD.T
    with torch.no_grad():
        teacher_logits = teacher.hidden_TD @ teacher.weight_VD.T
    q = (student_logits / temperature).log_softmax(-1)
    p = (teacher_logits / temperature).log_softmax(-1)
    per_word = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True)
    loss = per_word.sum() * temperature**2
    loss.backward()  # with the logits still alive, as they are in a trainer's step
    return loss


def lean(student, teacher, temperature):
    """The same with every intermediate dropped as soon as it can be: the least memory whole logits and autograd get by with."""
    import torch

    q = ((student.hidden_TD @ student.weight_VD.T) / temperature).log_softmax(-1)
    with torch.no_grad():
        p = ((teacher.hidden_TD @ teacher.weight_VD.T) / temperature).log_softmax(-1)
    loss = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") * temperature**2
    loss.backward()
    return loss


def chunked(student, teacher, temperature):
    """kdbuild's."""
    from kdbuild.objectives._chunked import forward_kl

    loss = forward_kl(student, teacher, temperature)
    loss.backward()
    return loss


KINDS = {"naive": naive, "lean": lean, "chunked": chunked}


def status_kib(name: str) -> int:
    """Return a line of /proc/self/status in KiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def measure(which: str) -> None:
    """Print one measurement: extra peak in MiB, CPU seconds, and the loss and gradient norms as evidence of equal work."""
    import torch

    from kdbuild.objectives import Head

    def heads(tokens: int, words: int) -> tuple[Head, Head]:
        chance = torch.Generator().manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=chance) * 0.2

        student = Head(normal(tokens, WIDTH).requires_grad_(), normal(words, WIDTH).requires_grad_())
        return student, Head(normal(tokens, WIDTH), normal(words, WIDTH))

    KINDS[which](*heads(300, 512), 2.0)
    student, teacher = heads(TOKENS, WORDS)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kib("VmRSS")
    start = time.process_time()
    total = KINDS[which](student, teacher, 2.0)
    cpu_s = time.process_time() - start
    norms = [float(t.grad.norm()) for t in (student.hidden_TD, student.weight_VD)]
    print(json.dumps({"extra_mib": (status_kib("VmHWM") - before) / 1024, "cpu_s": cpu_s, "work": [total.item(), *norms]}))


def run(which: str) -> dict:
    """Measure in a fresh process."""
    return json.loads(subprocess.run([sys.executable, __file__, "--measure", which], check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Compare in pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", choices=tuple(KINDS))
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return 0
    found = {which: [] for which in KINDS}
    for _ in range(arguments.pairs):
        for which in found:
            found[which].append(run(which))
    for other in ("naive", "lean"):
        for ours, theirs in zip(found["chunked"][0]["work"], found[other][0]["work"], strict=True):
            assert abs(ours - theirs) <= 1e-5 * abs(theirs), (other, ours, theirs)
    mib = {which: statistics.median(m["extra_mib"] for m in runs) for which, runs in found.items()}
    cpu_s = {which: statistics.median(m["cpu_s"] for m in runs) for which, runs in found.items()}
    ratio = mib["chunked"] / mib["naive"]
    weight_mib = WORDS * WIDTH * 4 / 2**20
    print(f"extra peak: chunked {mib['chunked']:.0f} MiB (of which the weight's own gradient is {weight_mib:.0f})")
    for other in ("naive", "lean"):
        print(f"  {other} {mib[other]:.0f} MiB: chunked is 1/{mib[other] / mib['chunked']:.1f} of it")
        print(f"  CPU time against {other}: {cpu_s['chunked']:.1f} s to {cpu_s[other]:.1f} s, ratio {cpu_s['chunked'] / cpu_s[other]:.2f}")
    print(f"limit: 1/8 of naive: {'held' if ratio <= LIMIT else 'NOT HELD'}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
