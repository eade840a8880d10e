"""A plot of results as SVG, by hand: one group of bars per measure, each drawn against nginx, the line at 1."""

from __future__ import annotations

from html import escape

from benchmarks.report import Results, number

REFERENCE = "nginx"
COLOURS = {"wsgate": "#0b6e4f", "wsgate, no frame rules": "#6bbf59", "nginx": "#6c757d", "HAProxy": "#3a86c8", "aiohttp relay": "#e07a1f"}
LABEL_WIDTH, BAR_WIDTH, BAR_HEIGHT, GROUP_GAP, TOP = 350, 420, 12, 14, 64
LONGEST = 6.0  # times the reference; a longer bar is cut off and says its number

Bars = list[tuple[str, float]]


def groups(results: Results) -> list[tuple[str, Bars]]:
    """For each measure: title, and each subject's ratio to the reference."""
    found = []
    for row in results.rows:
        ratios = [(name, results.ratio(row.key, name, REFERENCE)) for name in results.subjects if name in COLOURS]
        bars = [(name, ratio) for name, ratio in ratios if ratio is not None]
        if bars:
            found.append((f"{row.title} ({row.unit})", bars))
    return found


def svg(results: Results) -> str:
    parts, y = [], TOP
    for title, bars in groups(results):
        middle = y + len(bars) * BAR_HEIGHT / 2 + 4
        parts.append(f'<text x="{LABEL_WIDTH - 10}" y="{middle:.0f}" text-anchor="end">{escape(title)}</text>')
        for name, ratio in bars:
            width = min(ratio, LONGEST) / LONGEST * BAR_WIDTH
            parts.append(f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT - 2}" fill="{COLOURS[name]}"/>')
            parts.append(f'<text x="{LABEL_WIDTH + width + 4:.1f}" y="{y + 9}" class="small">{number(ratio)}</text>')
            y += BAR_HEIGHT
        y += GROUP_GAP
    one = LABEL_WIDTH + BAR_WIDTH / LONGEST
    line = f'<line x1="{one:.1f}" y1="{TOP - 6}" x2="{one:.1f}" y2="{y}" stroke="#222" stroke-dasharray="3 3"/>'
    width = LABEL_WIDTH + BAR_WIDTH + 60
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}" width="{width}" height="{y + 10}">',
            "<style>text{font:12px sans-serif;fill:#222}.small{font-size:9px}</style>",
            f'<rect width="{width}" height="{y + 10}" fill="#fff"/>',
            f'<text x="10" y="20" font-weight="bold">Cost beside {REFERENCE} (= 1, dashed); shorter is better</text>',
            *legend([name for name in results.subjects if name in COLOURS]),
            *parts,
            line,
            "</svg>",
            "",
        ]
    )


def legend(names: list[str]) -> list[str]:
    parts, x = [], 10
    for name in names:
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 14}" y="41">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    return parts
