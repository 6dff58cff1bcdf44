"""What every student promises."""

import pytest

from kdbuild import kinds

EXAMPLES = {
    "causal-lm": {
        "config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    }
}
FAKE = kinds.parse("teachers", {"kind": "fake"})


@pytest.fixture(params=kinds.available("students"))
def student(request):
    return kinds.parse("students", {"kind": request.param, **EXAMPLES[request.param]})


def test_it_survives_being_written_and_read(student):
    assert kinds.parse("students", student.identity()) == student


def test_building_twice_gives_the_same_student_with_a_chat_template(student, tmp_path):
    built = [student.build(root=tmp_path, weights=None, teacher=FAKE, teacher_weights=None) for _ in range(2)]
    first, again = (model.state_dict() for model, _ in built)
    assert first.keys() == again.keys()
    assert all((first[name] == again[name]).all() for name in first)
    assert built[0][1].chat_template
    assert not built[0][0].training
