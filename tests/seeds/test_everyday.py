"""The seed prompts that this project ships."""

from pathlib import Path

from kdbuild import records
from kdbuild.seeds.dataset import Dataset

ROOT = Path(__file__).parents[2]


def test_the_shipped_prompts_are_short_different_and_named_by_slugs():
    rows = list(Dataset(path="specs/seeds/everyday.jsonl").rows(ROOT))
    prompts = [row.messages[0].content for row in rows]
    assert len(rows) == len(set(prompts)) == 110
    assert all(5 <= len(prompt.split()) <= 30 for prompt in prompts)
    assert all(row.id.replace("-", "").isalnum() and row.id == row.id.lower() for row in rows)


def test_enough_of_them_are_held_out():
    rows = Dataset(path="specs/seeds/everyday.jsonl").rows(ROOT)
    assert 20 <= sum(records.is_held_out(row, 0.2) for row in rows) <= 26
