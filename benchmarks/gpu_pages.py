"""Writes what was measured on a GPU into the pages: tables between two comments, and pictures.

The figures of all calls of `benchmarks/first_day.sh` are kept in `benchmarks/results/gpu.json`. From it each
table is made anew, between ``<!-- measured NAME -->`` and ``<!-- end -->`` in README.md and
kernels/README.md.

The figures of a rehearsal fill copies of the pages in `runs/rehearsal`, each table under a line that says so.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_layers
from tinyunet.backend import PRECISIONS
from tinyunet.errors import DataError

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks/results/gpu.json")
PAGES = (Path("README.md"), Path("kernels/README.md"))
PICTURES = Path("docs/images")
PARTS = ("correct", "profile", "networks", "layers", "train")
# Three layers of the U-Net at base 64 and tile 572: the widest map, a middle one, the deepest.
SHOWN_LAYERS = ("570: 64→64", "138: 256→256", "30: 1024→1024")
NOT_MEASURED = "not measured yet"
REHEARSED = Path("runs/rehearsal")
REHEARSAL = "**A rehearsal without a GPU: its figures mean nothing.**"

Figures = dict[str, Any]


def read(archives: Iterable[Path], root: Path = ROOT) -> list[Path]:
    """Take the figures out of archives, add them to those that are kept, and fill the pages.

    Parameters
    ----------
    archives : iterable of Path
        What `benchmarks/first_day.sh` packed; of a part that is in several, the last counts.
    root : Path
        The folder of the repository.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    DataError
        An archive holds no figures, those of another GPU than the kept ones, or a rehearsal among others.
    """
    found = {archive: _figures_in(archive) for archive in archives}
    if all(_is_rehearsal(figures) for figures in found.values()):
        return _rehearse(found.values(), root)
    kept = root / RESULTS
    figures: Figures = json.loads(kept.read_text()) if kept.exists() else {}
    for archive, parts in found.items():
        _require_same_gpu(archive, parts, figures)
        figures |= parts
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return [kept, *fill(figures, root)]


def _is_rehearsal(figures: Figures) -> bool:
    return any(part.get("tiny") for part in figures.values())


def _rehearse(found: Iterable[Figures], root: Path) -> list[Path]:
    """Fill copies of the pages, marked as those of a rehearsal."""
    for page in PAGES:
        (root / REHEARSED / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / page, root / REHEARSED / page)
    return fill(
        {name: part for figures in found for name, part in figures.items()}, root / REHEARSED, REHEARSAL
    )


def _figures_in(archive: Path) -> Figures:
    """Return the figures of each part in an archive."""
    found: Figures = {}
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            part = Path(member.name).stem
            if part in PARTS and member.name.endswith(".json") and (file := files.extractfile(member)):
                found[part] = json.load(file)
    if not found:
        raise DataError(
            f"{archive}: holds no figures",
            {"expected": ", ".join(f"{part}.json" for part in PARTS)},
            "look into the logs inside it: each part says why it failed",
        )
    return found


def _require_same_gpu(archive: Path, found: Figures, kept: Figures) -> None:
    devices = {part["device"] for part in [*found.values(), *kept.values()]}
    if len(devices) > 1 or _is_rehearsal(found):
        raise DataError(
            f"{archive}: its figures do not belong with the kept ones",
            {
                "devices": ", ".join(sorted(devices)),
                "rehearsal": _is_rehearsal(found),
            },
            f"give all archives of one GPU at once, after removing {RESULTS}, and those of a rehearsal apart",
        )


def fill(figures: Figures, root: Path = ROOT, mark: str = "") -> list[Path]:
    """Write all tables, each after a mark if there is one, and pictures; return their files."""
    tables = {"step": step_table(figures), "kernels": kernel_table(figures), "ladder": ladder_table(figures)}
    written = []
    for page in (root / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            text = replaced(text, name, f"{mark}\n\n{table}" if mark else table)
        page.write_text(text, encoding="utf-8")
        written.append(page)
    if figures.get("layers", {}).get("layers"):  # a rehearsal has none
        for name, draw in (("ladder", gpu_layers.draw_ladder), ("roofline", gpu_layers.draw_roofline)):
            picture = root / PICTURES / f"gpu_{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw(figures["layers"], picture)
            written.append(picture)
    return written


def replaced(text: str, name: str, table: str, kind: str = "measured") -> str:
    """Return a page with another table between the comments of this name; without them, as it was."""
    pattern = rf"(<!-- {kind} {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text, flags=re.DOTALL)


def step_table(figures: Figures) -> str:
    """Make the table of a training step and a prediction, by precision, beside PyTorch's."""
    rows = []
    networks = {row["precision"]: row for row in figures.get("networks", {}).get("networks", [])}
    for precision in PRECISIONS:
        graph = figures.get("profile", {}).get(precision, {}).get("graph_ms")
        row = networks.get(precision, {})
        ours = row.get("tinyunet, CUDA graph", {}).get("step", graph)
        theirs = [row[form] for form in ("eager", "channels_last", "compiled") if form in row]
        best_step = min((form["step"] for form in theirs), default=None)
        best_prediction = min((form["prediction"] for form in theirs), default=None)
        prediction = row.get("tinyunet", {}).get("prediction")
        cells = (_beside(ours, best_step), _beside(prediction, best_prediction))
        rows.append((precision, *cells))
    return markdown_table(("precision", "training step", "prediction of a tile"), rows)


def _beside(ours: float | None, theirs: float | None) -> str:
    """Return ours beside PyTorch's, in milliseconds, and how many times as fast it is."""
    if ours is None:
        return NOT_MEASURED
    if theirs is None:
        return f"{ours:.1f} ms; PyTorch's {NOT_MEASURED}"
    return f"{ours:.1f} ms, PyTorch's {theirs:.1f} ms: {theirs / ours:.2g}×"


def kernel_table(figures: Figures, longest: int = 8) -> str:
    """Make the table of the kernels that take longest in a training step, by precision."""
    rows = []
    for precision in PRECISIONS:
        kernels = figures.get("profile", {}).get(precision, {}).get("kernels_us", {})
        total = sum(time for _, time in kernels.values())
        found = sorted(kernels.items(), key=lambda item: -item[1][1])[:longest]
        shares = (f"`{name}` ×{count:.0f} {100 * time / total:.0f} %" for name, (count, time) in found)
        rows.append((precision, ", ".join(shares) or NOT_MEASURED))
    return markdown_table(("precision", "kernels, launches in a step, share of the time"), rows)


def ladder_table(figures: Figures) -> str:
    """Make the table of the rungs: forward TFLOP/s and the share of cuDNN's for three layers."""
    layers = {layer["name"]: layer["rungs"] for layer in figures.get("layers", {}).get("layers", [])}
    rungs = [rung for rung in gpu_layers.COLOURS if any(rung in found for found in layers.values())]
    rows = []
    for rung in rungs or list(gpu_layers.COLOURS):
        theirs = f"PyTorch {gpu_layers.PRECISION_OF.get(rung, 'float32')}"
        cells = []
        for name in SHOWN_LAYERS:
            found = layers.get(name, {})
            cells.append(_rate(found.get(rung), None if rung in gpu_layers.PYTORCHS else found.get(theirs)))
        rows.append((rung, *cells))
    return markdown_table(("rung", *SHOWN_LAYERS), rows)


def _rate(ours: Figures | None, theirs: Figures | None) -> str:
    """Return TFLOP/s, and the share of cuDNN's in the same precision."""
    if ours is None:
        return NOT_MEASURED
    rate = ours["forward"]["tflops"]
    share = f", {100 * rate / theirs['forward']['tflops']:.0f} %" if theirs else ""
    return f"{rate:.1f}{share}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
