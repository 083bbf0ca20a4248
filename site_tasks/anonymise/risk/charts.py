"""Bars as inline SVG: what the risk report needs and no more."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["columns", "rows"]

BEFORE, AFTER = "#c44e52", "#2a78b5"


def columns(
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    *,
    unit: str,
    axis: str,
) -> str:
    """Upright bars, one group per label.

    Parameters
    ----------
    labels : sequence of str
        Of the groups.
    series : sequence of (name, colour, shares)
        Shares between 0 and 1, one per group.
    unit : str
        What the height means.
    axis : str
        What the groups are.
    """
    width, height, left, bottom, top = 760, 300, 56, 62, 34
    most = max((value for _, _, values in series for value in values), default=0.0) or 1.0
    step = next(s for s in (0.05, 0.1, 0.2, 0.25, 1.0) if most / s <= 5)
    scale = (height - bottom - top) / (step * -(-most // step))
    base = height - bottom
    out = [_legend([(name, colour) for name, colour, _ in series], left)]
    for tick in range(int(-(-most // step)) + 1):
        y = base - tick * step * scale
        out.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        out.append(_text(left - 8, y + 4, f"{tick * step:.0%}", "end"))
    group = (width - left) / max(len(labels), 1)
    bar = group * 0.8 / max(len(series), 1)
    for i, label in enumerate(labels):
        for j, (name, colour, values) in enumerate(series):
            x, tall = left + i * group + group * 0.1 + j * bar, values[i] * scale
            out.append(
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}" '
                f'fill="{colour}"><title>{escape(name)}, {escape(label)}: {values[i]:.1%}</title>'
                "</rect>"
            )
        out.append(_text(left + (i + 0.5) * group, base + 18, label, "middle"))
    out.append(_text(left + (width - left) / 2, height - 22, axis, "middle", "axis"))
    out.append(_text(width, 14, unit, "end", "axis"))
    return _svg(width, height, out)


def rows(
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    *,
    most: float | None = None,
) -> str:
    """Lying bars, one group per label, each with its figure behind it.

    Parameters
    ----------
    labels : sequence of str
        Of the groups.
    series : sequence of (name, colour, shares)
        Shares between 0 and 1, None where there is none.
    most : float, optional
        Share that fills the width; the largest one when absent.
    """
    thick, gap, width, left, right = 17, 12, 760, 290, 70
    top = 34 if len(series) > 1 else 8
    group = thick * len(series) + gap
    shares = [value for _, _, values in series for value in values if value is not None]
    full = most or max(shares, default=0.0) or 1.0
    out = [_legend([(n, c) for n, c, _ in series], left)] if len(series) > 1 else []
    for i, label in enumerate(labels):
        y = top + i * group
        out.append(_text(left - 10, y + thick * len(series) / 2 + 4, label, "end"))
        for j, (name, colour, values) in enumerate(series):
            value = values[i]
            if value is None:
                continue
            wide, at = (width - left - right) * min(value / full, 1), y + j * thick
            out.append(
                f'<rect x="{left}" y="{at}" width="{max(wide, 1):.1f}" height="{thick - 2}" '
                f'fill="{colour}"><title>{escape(name)}, {escape(label)}: {value:.2%}</title></rect>'
            )
            out.append(_text(left + wide + 6, at + thick - 4, f"{value:.1%}", "start", "figure"))
    return _svg(width, top + group * len(labels), out)


def _legend(entries: Sequence[tuple[str, str]], x: float) -> str:
    out = []
    for name, colour in entries:
        out.append(f'<rect x="{x}" y="4" width="12" height="12" fill="{colour}"/>')
        out.append(_text(x + 18, 14, name, "start"))
        x += 40 + 7.5 * len(name)
    return "".join(out)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
