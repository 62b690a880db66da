"""The Markdown table of a run."""

from __future__ import annotations

from typing import Any

from engines import OURS
from rows import GOALS, ROWS, SCHEMES, Row
from suite import SIZES

FAMILIES = ("OpenVINO", "ONNX Runtime", "torch", "candle")
HEADS = ("work", "size", "format", "ours", *FAMILIES, "ours / best peer", "goal", "GFLOP/s (of peak)")


def figure(value: float | None) -> str:
    """Three digits, no exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def best_of(row: Row, values: list[float]) -> float | None:
    """The best of some results, whichever way is better."""
    return (max if row.unit == "tok/s" else min)(values, default=None)


def ratio_cell(row: Row, size: str, dtype: str, ratio: float | None) -> tuple[str, str]:
    goal = GOALS.get((row.name, size, dtype))
    text = "–" if ratio is None else f"{ratio:.2f}"
    if goal is None:
        return text, "–"
    reached = ratio is not None and (ratio >= goal if row.unit == "tok/s" else ratio <= goal)
    bound = f"{'≥' if row.unit == 'tok/s' else '≤'} {goal:g}"
    return (f"**{text}**" if reached else text), bound


def lines_of(unit: dict[str, Any], peaks: dict[str, float], inputs: dict[str, Any]) -> list[str]:
    """One line for each of our formats, or one without us."""
    row, size = ROWS[unit["row"]], unit["size"]
    results, skipped = unit["results"], unit["skipped"]

    def family(name: str) -> dict[str, float]:
        return {key.removeprefix(f"{name} "): result["value"] for key, result in results.items() if key.startswith(f"{name} ")}

    peers = {name: best_of(row, list(family(name).values())) for name in FAMILIES}
    best = best_of(row, [value for value in peers.values() if value is not None])
    cells = []
    for name in FAMILIES:
        left_out = any(key.startswith(f"{name} ") for key in skipped)
        cells.append("left out" if peers[name] is None and left_out else figure(peers[name]))
    lines = []
    for dtype, value in family(OURS).items() or [(unit["scheme"], None)]:
        ratio, goal = ratio_cell(row, size, dtype, value / best if value and best else None)
        flops = row.flops(size, inputs)
        done = "–"
        if value and flops:
            seconds = value / 1000 if row.unit == "ms" else results[f"{OURS} {dtype}"]["tokens"] / value
            peak = peaks.get(dtype)
            done = figure(flops / seconds / 1e9) + (f" ({100 * flops / seconds / peak:.0f} %)" if peak else "")
        lines.append("| " + " | ".join([f"{row.title} ({row.unit})", size, dtype, figure(value), *cells, ratio, goal, done]) + " |")
    return lines


def ordered(units: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def place(unit: dict[str, Any]) -> tuple[int, int, int, str]:
        scheme = unit["scheme"]
        rank = SCHEMES.index(scheme) if scheme in SCHEMES else len(SCHEMES)
        return list(ROWS).index(unit["row"]), list(SIZES).index(unit["size"]), rank, scheme

    return sorted(units.values(), key=place)


def document(record: dict[str, Any], inputs: dict[str, Any]) -> str:
    units = ordered(record["units"])
    dates = sorted({unit["date"] for unit in units})
    commits = sorted({unit["commit"] for unit in units})
    table = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for unit in units:
        table += lines_of(unit, record["peaks"], inputs)
    left_out: dict[str, list[str]] = {}
    for unit in units:
        for name, reason in unit["skipped"].items():
            left_out.setdefault(f"{name}: {reason}", []).append(f"{unit['row']} {unit['size']}")
    gate = ["| engine | size | least centred cosine | bound |", "|---|---|---|---|"]
    for entry in record["gate"].values():
        gate.append(f"| {entry['engine']} ({entry['objective']}) | {entry['size']} | {entry['cosine']:.6f} | {entry['bound']:g} |")
    load = max((unit["load"] for unit in units), default=0.0)
    return "\n".join(
        [
            "# This engine beside its peers",
            "",
            f"Written by `scripts/peers/run.py`; do not edit. {', '.join(dates)}, engine at {', '.join(commits)}.",
            "",
            f"* Machine: {record['cpu']}; {record['machine']}.",
            f"* Command: `{record['command']}`",
            f"* The load average was at most {load:.1f} before a row, on {record['threads']} threads: "
            + ("quiet." if load <= record["threads"] + 0.5 else "**other work ran on this machine**, and numbers are noisy."),
            "",
            "Tokens are real tokens, without padding. Engines of one number format take turns within a row (README of",
            f"scripts/peers); medians of {record['rounds']} rounds. A ratio is ours by the best peer of the format: of tokens per second,",
            "where more is better, or of time and memory, where less is; bold where it reaches the goal.",
            "",
            *table,
            "",
            "## Parity gate",
            "",
            *gate,
            "",
            "## Left out",
            "",
            *([f"* {reason} ({', '.join(rows)})" for reason, rows in left_out.items()] or ["Nothing."]),
            *[f"* {OURS} {dtype}: {reason}" for dtype, reason in record["refused"].items()],
            "",
            "## Versions",
            "",
            *[f"* {name}: {ready}" for name, ready in sorted(record["versions"].items())],
            "",
        ]
    )
