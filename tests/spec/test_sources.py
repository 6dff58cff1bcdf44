from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from kdbuild.spec import sources

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:org/name@0123abc", sources.ModelSource("hf", "org/name", "0123abc")),
        ("hf:gpt2@refs/pr/3", sources.ModelSource("hf", "gpt2", "refs/pr/3")),
        ("path:models/mine", sources.ModelSource("path", "models/mine")),
        ("path:models/my model.gguf", sources.ModelSource("path", "models/my model.gguf")),
        ("pypi:a-b==1.2:a_b/m.gguf", sources.ModelSource("pypi", "a-b", "1.2", "a_b/m.gguf")),
        (f"pypi:a==1!2.0+cpu:a/model#sha256={SHA}", sources.ModelSource("pypi", "a", "1!2.0+cpu", "a/model", SHA)),
    ],
)
def test_a_source_is_taken_apart_and_written_back(text, expected):
    assert sources.parse_source(text) == expected
    assert sources.check_source(text) == text


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("path:./models//mine/", "path:models/mine"),
        (f"pypi:a==1:./a/m#sha256={SHA.upper()}", f"pypi:a==1:a/m#sha256={SHA}"),
        (" hf:org/name@main ", "hf:org/name@main"),
    ],
)
def test_a_source_has_one_spelling(text, spelling):
    assert sources.check_source(text) == spelling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:org/name", "names no revision"),
        ("hf:org/name@", "names no revision"),
        ("hf:@main", "names no model"),
        ("hf:../name@main", "names no model"),
        ("hf:org/name@a b", "is not a revision"),
        ("hf:org/name@../../x", "is not a revision"),
        ("org/name", "does not say where the model is"),
        ("org/name@main", "does not say where the model is"),
        ("", "is not a model source"),
        ("ollama:llama3", "is not a model source"),
        ("path:", "is not a path"),
        ("path:/etc/passwd", "not inside the project"),
        ("path:~/model", "not inside the project"),
        ("path:C:/model", "not inside the project"),
        ("path:a/../../b", "goes up with `..`"),
        ("path:a\\b", "cannot have here"),
        ("path:a/${x}", "cannot have here"),
        ("path:.", "is the project itself"),
        ("pypi:package:inside/x", "names no version"),
        ("pypi:package>=1:inside/x", "names no version"),
        ("pypi:--index-url==1:x", "is not a package's name"),
        ("pypi:a @ https://x==1:x", "is not a package's name"),
        ("pypi:a==1 --pre:x", "names no version"),
        ("pypi:a==1", "does not say which file"),
        ("pypi:a==1:", "does not say which file"),
        ("pypi:a==1:../x", "goes up with `..`"),
        ("pypi:a==1:x#sha256=abc", "is not a checksum"),
        (f"pypi:a==1:x#md5={SHA}", "is not a checksum"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_and_what_to_write(text, message):
    with pytest.raises(PydanticCustomError) as caught:
        sources.check_source(text)
    assert message in caught.value.message()
    assert caught.value.context["hint"]


def test_a_field_reports_a_bad_source_with_braces_as_it_was_given():
    class Holder(BaseModel):
        source: Annotated[str, AfterValidator(sources.check_source)]

    with pytest.raises(ValidationError) as caught:
        Holder(source="{what}:{}")
    (error,) = caught.value.errors()
    assert error["msg"] == "`{what}:{}` is not a model source"
    assert Holder(source="path:a").source == "path:a"


@pytest.mark.parametrize(
    ("text", "fetched", "weights", "files"),
    [
        ("hf:org/name@r", False, "hf:org/name@r", ()),
        ("path:models/mine", False, "models/mine", ("models/mine",)),
        ("path:models/mine.GGUF", True, "artifacts/models/tiny/weights", ("models/mine.GGUF",)),
        ("pypi:a==1:a/model", True, "artifacts/models/tiny/weights", ()),
    ],
)
def test_where_a_models_weights_are_and_which_files_of_the_project_it_reads(text, fetched, weights, files):
    assert sources.files_of(text) == files
    assert sources.needs_fetch(text) is fetched
    assert sources.weights_of(text, "tiny") == weights


def test_a_phase_of_another_spec():
    parsed = sources.parse_source("phase:big/kl")
    assert (parsed.scheme, parsed.name, str(parsed)) == ("phase", "big/kl", "phase:big/kl")
    assert not sources.needs_fetch("phase:big/kl")
    assert sources.weights_of("phase:big/kl", "x") == "artifacts/big/kl/model"
    with pytest.raises(ValueError, match="names no phase of a spec"):
        sources.parse_source("phase:kl")


def test_what_a_source_does_not_pin():
    assert sources.unpinned("path:mine") == "mine"
    assert sources.unpinned("path:mine.gguf") == "mine.gguf"
    assert sources.unpinned("phase:big/kl") == "artifacts/big/kl/model"
    assert sources.unpinned("hf:a/b@c") is None
