"""Dataset and model cards in Hugging Face form: YAML front matter the hub reads, then Markdown for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jinja2

from kdbuild.report.charts import number
from kdbuild.report.page import TEMPLATES, clip, table, words
from kdbuild.report.selection import text_of
from kdbuild.report.story import Story

if TYPE_CHECKING:
    import pyarrow as pa

TAGS = ["distillation", "kdbuild"]
HUB_LICENCES = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "openrail",
        "bigscience-openrail-m",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "gemma",
        "unlicense",
    )
)
"""Names the hub knows (SPDX, in lower case); any other is `other` with the name beside it."""
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")


def render(story: Story) -> dict[str, str]:
    """Return card name (`dataset`, `model`) to the text of its README.md; a spec has those of what it makes."""
    cards = {}
    if story.data:
        cards["dataset"] = _front(dataset_facts(story), "DatasetCardData") + _body("dataset.md", story)
    if story.training:
        cards["model"] = _front(model_facts(story), "ModelCardData") + _body("model.md", story)
    return cards


# --- front matter ----------------------------------------------------------------------------------------------------


def _front(facts: dict[str, Any], data: str) -> str:
    import huggingface_hub

    card: Any = getattr(huggingface_hub, data)(**facts)
    return f"---\n{card.to_yaml()}\n---\n\n"


def _licence(story: Story) -> dict[str, str]:
    given = story.section.licence
    if given is None:
        return {}
    if given.lower() in HUB_LICENCES:
        return {"license": given.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", given.lower()).strip("-") or "unnamed"}


def dataset_facts(story: Story) -> dict[str, Any]:
    """Return the front matter of the dataset card."""
    num_rows = sum(len(part.rows) for part in story.data)
    size = _SIZE_NAMES[sum(num_rows >= limit for limit in SIZES)]
    configs: list[dict[str, Any]] = [{"config_name": part.phase, "data_files": f"{part.phase}/*.parquet"} for part in story.data]
    configs[-1] = {**configs[-1], "default": True}
    return {
        **_licence(story),
        "pretty_name": story.section.spec,
        "task_categories": ["text-generation"],
        "tags": [*TAGS, "synthetic"],
        "size_categories": [size],
        "configs": configs,
        "dataset_info": [
            {
                "config_name": part.phase,
                "features": features(part.schema),
                "splits": [{"name": "train", "num_examples": len(part.rows)}],
            }
            for part in story.data
        ],
    }


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return an Arrow schema as the hub writes it under `dataset_info`."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow.types as of

    if of.is_struct(kind):
        return {"struct": features(kind)}
    if of.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("struct") or inner["dtype"]}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind))}


def model_facts(story: Story) -> dict[str, Any]:
    """Return the front matter of the model card: what the hub lists, and what was measured as its model-index."""
    from huggingface_hub import EvalResult

    facts: dict[str, Any] = {
        **_licence(story),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": TAGS,
        "model_name": story.section.spec,
    }
    if base := hub_name(story.section.student) or hub_name(story.section.teacher):
        facts["base_model"] = base
    compared, last = story.comparison, story.last_phase
    if compared and last in compared.metrics:
        facts["eval_results"] = [
            EvalResult(
                task_type="text-generation",
                dataset_type=story.section.spec,
                dataset_name=f"{story.section.spec}, held-out rows",
                metric_type=metric,
                metric_value=value,
                metric_name=words(metric),
            )
            for metric, value in compared.metrics[last].items()
        ]
    return facts


def hub_name(text: str | None) -> str | None:
    """Return the hub's name of a model where a description holds one (`hf:org/name@revision`)."""
    found = re.search(r"\bhf:([\w.-]+/[\w.-]+)", text or "")
    return found.group(1) if found else None


# --- body ------------------------------------------------------------------------------------------------------------


def _body(template: str, story: Story) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(number=number, words=words, md=md, fenced=fenced)
    example = next((row for part in story.data for row in part.rows if not row.held_out), None)
    return environment.get_template(template).render(
        story=story,
        section=story.section,
        table=table(story.comparison) if story.comparison else [],
        example=text_of(example) if example else None,
    )


def md(text: str) -> str:
    """Return a text as one line of Markdown that shows it literally, in a table cell too."""
    line = _MARKDOWN.sub(r"\\\1", " ".join(clip(text).split()))
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", line)  # nor does it begin a list


def fenced(text: str) -> str:
    """Return a text as a Markdown code block that it cannot end itself."""
    text = clip(text, 2000)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
