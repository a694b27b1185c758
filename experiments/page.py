"""Write the results page from the records; only the papers' own numbers are typed by hand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.digits import decimals_of, finding, mean_and_spread
from experiments.pictures import plot_examples, plot_scores
from experiments.tasks import TASKS, Comparison, Run, Task, Variant
from experiments.templates import render
from tinyunet.metrics.naming import lower_is_better

MAX_WIDTH = 1200  # px, of the picture of the networks

Record = dict[str, Any]
Records = Mapping[Run, Record]


def write_page(page: Path, records: Mapping[Run | Comparison, Record]) -> None:
    """Write the page, and its pictures into images/ beside it.

    Parameters
    ----------
    page : Path
    records : mapping of Run or Comparison to record
        The page says of a task without records that it was not run.
    """
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    sections = []
    for task in TASKS.values():
        of_task = {job: r for job, r in records.items() if isinstance(job, Run) and job.task is task}
        sections.append(section(task, of_task, images) if of_task else {"task": task, "rows": []})
    compared = {job: record for job, record in records.items() if isinstance(job, Comparison)}
    page.write_text(
        render(
            "results.md.jinja",
            sections=sections,
            compared=comparison(compared, images) if compared else None,
        ),
        encoding="utf-8",
    )


def section(task: Task, records: Records, images: Path) -> dict[str, Any]:
    """Draw the pictures of a task with records; returns what the template needs."""
    scores, examples = (images / f"results_{task.name}{part}" for part in (".png", "_examples.jpg"))
    plot_scores(task, records, scores)
    plot_examples([run for run in records if run.seed == 0], examples)
    first = next(iter(records))
    trained = {run.folder: record["train_seconds"] for run, record in records.items()}  # each training once
    return {
        "task": task,
        "pictures": [f"images/{file.name}" for file in (scores, examples) if file.exists()],
        "rows": list(rows(task, records)),
        "finding": section_finding(task, records),
        "images": records[first]["images"],
        "steps": first.steps,
        "minutes": sum(trained.values()) / 60,
        "trainings": len(trained),
        "commands": {
            run.variant.title: record["commands"] for run, record in records.items() if run.seed == first.seed
        },
        **_made(list(records.values())),
    }


def section_finding(task: Task, records: Records) -> str:
    """Say in one sentence what a task's table shows, by its first measure; nothing if a seed has no value."""
    first = task.measures[0]
    scores = {
        variant.title: [record["scores"][first] for record in _by_seed(variant, records).values()]
        for variant in task.variants
    }
    scores = {title: values for title, values in scores.items() if values}
    reference, *others = scores
    if not others or any(value is None for values in scores.values() for value in values):
        return ""
    return finding(first, scores[reference], {title: scores[title] for title in others})


def _made(records: Sequence[Record]) -> dict[str, str]:
    """Days, machines and versions of the records; usually one of each."""
    return {
        "days": ", ".join(sorted({record["at"][:10] for record in records})),
        "machines": "; ".join(sorted({_machine(record) for record in records})),
        "versions": "; ".join(sorted({_versions(record) for record in records})),
    }


def comparison(records: Mapping[Comparison, Record], images: Path) -> dict[str, Any]:
    """Save a small copy of the first seed's picture of the networks; returns what the template needs."""
    first = next(iter(records))
    picture = images / "results_compare.jpg"
    if (drawn := first.folder / "comparison.png").is_file():
        small = Image.open(drawn).convert("RGB")
        small.thumbnail((MAX_WIDTH, 2 * MAX_WIDTH))
        small.save(picture, quality=85)
    measures = first.task.measures
    return {
        "task": first.task,
        "minutes": first.minutes,
        "seeds": len(records),
        "measures": measures,
        "finding": comparison_finding(list(records.values()), measures[0]),
        "rows": [
            network_row(name, [record["networks"][name] for record in records.values()], measures)
            for name in records[first]["networks"]
        ],
        "picture": f"images/{picture.name}" if picture.exists() else None,
        "commands": records[first]["commands"],
        **_made(list(records.values())),
    }


def comparison_finding(records: Sequence[Record], measure: str) -> str:
    """Say in one sentence which networks are apart from the U-Net, by one measure."""
    scores = {
        network_name(name): [record["networks"][name]["measures"][measure]["mean"] for record in records]
        for name in records[0]["networks"]
    }
    reference, *others = scores
    if not others or any(value is None for values in scores.values() for value in values):
        return ""
    said = finding(measure, scores[reference], {name: scores[name] for name in others})
    return said.replace("the reference", f"the {reference}").replace('"', "")


def network_name(name: str) -> str:
    """Name a network as people do."""
    return {"unet": "U-Net", "fcn": "FCN-8s"}.get(name, name.replace("-", " "))


def network_row(name: str, results: Sequence[Record], measures: Sequence[str]) -> dict[str, Any]:
    """A network's row of the table, from one result per seed."""
    brute_force = [result["brute_force"] for result in results if result["brute_force"]]
    return {
        "name": network_name(name),
        "cells": [
            mean_and_spread([result["measures"][measure]["mean"] for result in results])
            for measure in measures
        ],
        "parameters": f"{results[0]['parameters']:,}",
        "steps": f"{statistics.mean(result['steps'] for result in results):,.0f}",
        "seconds": f"{statistics.mean(result['seconds_per_image'] for result in results):.2f}",
        "multiplications": f"{results[0]['multiplications_per_pixel']:,.0f}",
        "brute_force": {
            "seconds": f"{statistics.mean(one['seconds_per_image'] for one in brute_force):,.0f}",
            "multiplications": f"{brute_force[0]['multiplications_per_pixel']:,.0f}",
        }
        if brute_force
        else None,
    }


def rows(task: Task, records: Records) -> Iterator[dict[str, Any]]:
    """The table's row of each variant that has records."""
    reference = _by_seed(task.variants[0], records)
    for variant in task.variants:
        by_seed = _by_seed(variant, records)
        if not by_seed:
            continue
        yield {
            "title": variant.title,
            "seeds": len(by_seed),
            "cells": [
                mean_and_spread([record["scores"][name] for record in by_seed.values()])
                for name in task.measures
            ],
            "seconds": statistics.mean(record["train_seconds"] for record in by_seed.values()),
            "verdict": verdict(task.measures[0], by_seed, reference) if variant != task.variants[0] else "",
        }


def _by_seed(variant: Variant, records: Records) -> dict[int, Record]:
    return {run.seed: record for run, record in records.items() if run.variant == variant}


def verdict(measure: str, variant: Mapping[int, Record], reference: Mapping[int, Record]) -> str:
    """Say how the variant differs from the reference, and with how many seeds it is better.

    >>> def scored(*values):
    ...     return {seed: {"scores": {"seg": value}} for seed, value in enumerate(values)}
    >>> verdict("seg", scored(0.5, 0.75), scored(0.25, 0.75))
    '+0.12; better with 1 of 2'
    """
    pairs = [
        (variant[seed]["scores"][measure], reference[seed]["scores"][measure])
        for seed in variant.keys() & reference.keys()
    ]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if not differences:
        return ""
    sign = -1 if lower_is_better(measure) else 1
    better = sum(sign * difference > 0 for difference in differences)
    mean = statistics.mean(differences)
    shown = f"{mean:+.{decimals_of(differences)}f}".replace("-", "−")
    if not float(shown[1:]):
        shown = shown[1:]  # 0 has no sign
    return f"{shown}; better with {better} of {len(differences)}"


def _machine(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, threads: {machine['threads']}"


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())
