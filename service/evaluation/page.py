"""A report as one self-contained HTML file: text, tables, plots as SVG, pictures as JPEG."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image as Picture

JPEG_QUALITY = 80
INK, GRID = "#22252a", "#d9dce1"
COLOURS = ("#b9c0c9", "#e0a458", "#2f6f9f", "#6a9a5b", "#a35d7a", "#7d6bb0")
matplotlib.rcParams |= {
    "svg.fonttype": "none",  # text stays text: smaller, and searchable
    "svg.hashsalt": "report",  # the same figure gives the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
}

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #22252a; background: #fafaf8;
       max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p, li { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .3rem 0 1rem; font-variant-numeric: tabular-nums;
        font-size: .85rem; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #d9dce1; text-align: right;
         vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #9aa1ab; }
td.best { font-weight: 700; } tbody tr:hover { background: #f0efe9; }
.caption, figcaption { color: #5b626c; margin: .3rem 0; } figure { margin: 1rem 0; }
img, svg { max-width: 100%; height: auto; }
"""


def write_page(path: Path, title: str, blocks: Sequence[str]) -> None:
    """Blocks are made by the functions below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(blocks) + "\n</body></html>\n",
        encoding="utf-8",
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    best: Mapping[int, bool] | None = None,
) -> str:
    """Values as they are given. best: columns whose best row is bold, and if the largest is it."""
    marks = {(_best_row(rows, column, largest), column) for column, largest in (best or {}).items()}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = []
    for index, row in enumerate(rows):
        cells = (
            f'<td class="best">{_cell(value)}</td>'
            if (index, column) in marks
            else f"<td>{_cell(value)}</td>"
            for column, value in enumerate(row)
        )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        (f'<p class="caption">{html.escape(caption)}</p>' if caption else "")
        + '<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def photo(picture: Picture.Image, caption: str, quality: int = JPEG_QUALITY) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" width="{picture.width}" height="{picture.height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def bars(
    caption: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], unit: str
) -> str:
    """Grouped bars: one group per name, one bar of it per series."""
    figure = Figure(figsize=(max(4.5, 1.1 + 0.8 * len(groups)), 3.1), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, ((name, values), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        places = [index + (number - (len(series) - 1) / 2) * width for index in range(len(groups))]
        axes.bar(places, values, width, label=name, color=colour)
    few = len(groups) < 7
    axes.set_xticks(
        range(len(groups)), groups, rotation=0 if few else 25, ha="center" if few else "right"
    )
    axes.set_ylabel(unit)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure, caption)


def _svg(figure: Figure, caption: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _best_row(rows: Sequence[Sequence[object]], column: int, largest: bool) -> int | None:
    values = []
    for index, row in enumerate(rows):
        try:
            values.append((float(str(row[column])), index))
        except ValueError:  # text, or nothing: no candidate
            continue
    return (max if largest else min)(values)[1] if values else None


def _cell(value: object) -> str:
    return html.escape("" if value is None else str(value))
