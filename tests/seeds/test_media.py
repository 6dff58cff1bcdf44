import json

import pytest
from pydantic import ValidationError

from kdbuild.errors import RowError
from kdbuild.seeds.media import Media

BUS = {"type": "image", "path": "bus.png", "text_view": "A red bus."}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    (tmp_path / "pictures" / "bus.png").write_bytes(b"bus")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path


def read(root, *records, folder="pictures"):
    (root / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Media(path="m.jsonl", folder=folder).rows(root))


def test_a_row_is_a_medium_with_its_file_and_text_view(root):
    bus, molecule = read(root, {**BUS, "meta": {"source": "street", "width": 3}}, {"type": "molecule", "text_view": "CCO", "id": "ethanol"})
    assert bus.media == {"type": "image", "path": "pictures/bus.png", "text_view": "A red bus."}
    assert bus.meta == {"source": "street", "width": "3"}
    assert (molecule.id, molecule.media, molecule.messages) == ("ethanol", {"type": "molecule", "text_view": "CCO"}, ())
    assert Media(path="m.jsonl", folder="pictures").files() == ("m.jsonl", "pictures")


def test_the_files_content_is_in_the_id_its_path_is_not(root):
    (before,) = read(root, BUS)
    (root / "pictures" / "more" / "coach.png").write_bytes(b"bus")
    (moved,) = read(root, {**BUS, "path": "more/coach.png"})
    (root / "pictures" / "bus.png").write_bytes(b"another bus")
    (changed,) = read(root, BUS)
    assert (moved.id, moved.media["path"]) == (before.id, "pictures/more/coach.png")
    assert changed.id != before.id


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"type": "image", "path": "bus.png"}, "m.jsonl:1 has no `text_view`"),
        ({**BUS, "type": ""}, "m.jsonl:1 has no `type`"),
        ({**BUS, "path": "car.png"}, "m.jsonl:1: `car.png` is not there"),
        ({**BUS, "path": "more"}, "m.jsonl:1: `pictures/more` is not a file"),
        ({**BUS, "path": "../secret.png"}, "m.jsonl:1: `path`: `../secret.png` goes up"),
        ({**BUS, "path": "/etc/passwd"}, "m.jsonl:1: `path`: `/etc/passwd` is not inside the project"),
        ({**BUS, "path": "link.png"}, "m.jsonl:1: `link.png` is not inside the project"),
        ({**BUS, "meta": "x"}, "m.jsonl:1: `meta` is not an object"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(root, record, message):
    with pytest.raises(RowError) as caught:
        read(root, record)
    assert caught.value.message.startswith(message)


def test_a_path_needs_a_folder_and_a_manifest_is_jsonl(root):
    with pytest.raises(RowError, match="does not say in which folder"):
        read(root, BUS, folder=None)
    with pytest.raises(ValidationError, match=r"not a \.jsonl file"):
        Media(path="m.csv")
