"""The Markdown table of a run."""

from __future__ import annotations

import textwrap
from typing import Any

from engines import OURS
from rows import DRAFTS, GOALS, ROWS, SCHEMES, SHARES, SIDE_BY_SIDE, Row
from suite import SIZES

FAMILIES = ("OpenVINO", "ONNX Runtime", "torch", "candle", "llama.cpp")
COLUMNS = 132  # of a line of text; `documents.rs` refuses more than 140
HEADS = ("work", "size", "format", "ours", *FAMILIES, "ours / best peer", "goal", "GFLOP/s", "of the limit", "goal")


def figure(value: float | None) -> str:
    """Three digits, no exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def wrapped(text: str) -> list[str]:
    """The lines of a paragraph or an item; tables are left as they are."""
    indent = "  " if text.startswith("* ") else ""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


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


def reaching(value: float | None, goal: float | None, text: str) -> tuple[str, str]:
    """A cell, bold where it reaches its goal, and the goal."""
    if goal is None:
        return text, "–"
    percent = f"{100 * goal:.0f} %" if goal < 1 else f"{goal:g}"
    return (f"**{text}**" if value is not None and value >= goal else text), f"≥ {percent}"


def limit_cells(row: Row, size: str, dtype: str, result: dict[str, Any], flops: float | None, peak: float | None) -> tuple[str, str, str]:
    """Operations per second where they are counted, and the share of what the machine would allow, with its goal."""
    share, bound, done = result.get("share"), result.get("bound"), "–"
    if flops:
        seconds = result["value"] / 1000 if row.unit == "ms" else result["tokens"] / result["value"]
        done = figure(flops / seconds / 1e9)
        if peak:
            share, bound = flops / seconds / peak, "arithmetic"
    goal = SHARES.get((row.name, size, dtype))
    if share is None:
        return done, *reaching(None, goal, "–")
    # Nothing passes a limit: it was measured too low, as beside other work, and reaches no goal.
    unsure = share > 1
    text = f"unsure: {100 * share:.0f} %" if unsure else f"{100 * share:.0f} % ({bound})"
    return done, *reaching(None if unsure else share, goal, text)


def markdown(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ("---",) * len(heads), *lines)]


def lines_of(unit: dict[str, Any], peaks: dict[str, float], inputs: dict[str, Any]) -> list[tuple[str, ...]]:
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
        result = results.get(f"{OURS} {dtype}", {})
        limit = limit_cells(row, size, dtype, result, row.flops(size, inputs) if value else None, peaks.get(dtype))
        lines.append((f"{row.title} ({row.unit})", size, dtype, figure(value), *cells, ratio, goal, *limit))
    return lines


def ordered(units: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def place(unit: dict[str, Any]) -> tuple[int, int, int, str]:
        scheme = unit["scheme"]
        rank = SCHEMES.index(scheme) if scheme in SCHEMES else len(SCHEMES)
        return list(ROWS).index(unit["row"]), list(SIZES).index(unit["size"]), rank, scheme

    return sorted(units.values(), key=place)


def section(title: str, words: str, heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    """Nothing where there is nothing to show."""
    return [f"## {title}", "", *wrapped(words), "", *markdown(heads, lines), ""] if lines else []


def side_by_side(units: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for unit in ordered(units):
        one = units.get(f"tg128/{unit['size']}/{unit['scheme']}") if unit["row"] == "tg128x8" else None
        name = f"{OURS} {unit['scheme']}"
        if one is None or name not in unit["results"] or name not in one["results"]:
            continue
        eight, alone = unit["results"][name]["value"], one["results"][name]["value"]
        goal = SIDE_BY_SIDE.get((unit["size"], unit["scheme"]))
        lines.append((unit["size"], unit["scheme"], figure(alone), figure(eight), *reaching(eight / alone, goal, f"{eight / alone:.2f}")))
    heads = ("size", "format", "one", "eight", "eight / one", "goal")
    return section("Eight sequences against one", "Our tokens per second, all sequences together.", heads, lines)


def beside_another_model(units: list[dict[str, Any]]) -> list[str]:
    """The weights that engines of different models read per second."""
    lines = []
    for unit in units:
        row = ROWS[unit["row"]]
        for name, result in unit["results"].items() if row.beside else ():
            weights = result["weight_bytes"]
            passes = result["value"] / row.shape[0]
            lines.append((row.title, unit["scheme"], name, figure(result["value"]), f"{weights / 1e6:.0f}", figure(weights * passes / 1e9)))
    words = (
        "Models of different sizes: llama.cpp has no ModernBERT decoders, and is measured on the dimensions of SmolLM2-135M (134.5 M "
        "parameters, all read for a token) beside our 150m (149.6 M read for a token). The fair figure is the weights read per second."
    )
    heads = ("work", "bits of", "engine", "tok/s", "weights, MB", "weights read, GB/s")
    return section("Beside another model", words, heads, lines)


def reading(units: list[dict[str, Any]]) -> list[str]:
    """The rates of reading that limits of decoding follow from, by the weights that are read."""
    found: dict[int, float] = {}
    for unit in units:
        row = ROWS[unit["row"]]
        for name, result in unit["results"].items() if row.kind == "decode" and row.shape[0] == 1 else ():
            if name.startswith(OURS) and result.get("bound") == "memory" and result["share"] <= 1:
                found[result["weight_bytes"]] = result["weight_bytes"] * result["value"] / result["share"] / 1e9
    rates = ", ".join(f"{figure(rate)} GB/s of {figure(weights / 1e6)} MB" for weights, rate in sorted(found.items()))
    words = f"* Read, by all threads, where weights set the limit of decoding: {rates} (measured on at most 268 MB)."
    return wrapped(words) if found else []


def drafting(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for entry in found.values():
        draft, values = DRAFTS[entry["row"]], entry["values"]
        ratio = values["drafted"] / values["plain"]
        accepted = f"{entry['accepted_tokens']} of {entry['drafted_tokens']}"
        accepted += f" ({100 * entry['accepted_tokens'] / max(1, entry['drafted_tokens']):.0f} %)"
        speed = reaching(ratio, draft.goal, f"{ratio:.2f}")
        lines.append((draft.title, entry["dtype"], figure(values["plain"]), figure(values["drafted"]), accepted, *speed))
    words = (
        "The trained nano decoder continues prompts that quote a passage, one at a time; tokens per second behind the prompts. "
        "What is generated is the same, token for token: otherwise there is no line here."
    )
    heads = ("guesses", "format", "plain", "drafted", "accepted", "drafted / plain", "goal")
    return section("Drafting", words, heads, lines)


def document(record: dict[str, Any], inputs: dict[str, Any]) -> str:
    units = ordered(record["units"])
    measured = [*units, *record["drafts"].values()]
    dates = sorted({unit["date"] for unit in measured})
    commits = sorted({unit["commit"] for unit in measured})
    table = markdown(HEADS, [line for unit in units for line in lines_of(unit, record["peaks"], inputs)])
    left_out: dict[str, list[str]] = {}
    for unit in units:
        for name, reason in unit["skipped"].items():
            left_out.setdefault(f"{name}: {reason}", []).append(f"{unit['row']} {unit['size']}")
    gate = [
        (f"{entry['engine']} ({entry['objective']})", entry["size"], f"{entry['cosine']:.6f}", f"{entry['bound']:g}")
        for entry in record["gate"].values()
    ]
    load = max((unit["load"] for unit in measured), default=0.0)
    return "\n".join(
        [
            "# This engine beside its peers",
            "",
            *wrapped(f"Written by `scripts/peers/run.py`; do not edit. {', '.join(dates)}, engine at {', '.join(commits)}."),
            "",
            f"* Machine: {record['cpu']}; {record['machine']}.",
            *wrapped(f"* Command: `{record['command']}`"),
            f"* The load average was at most {load:.1f} before a row, on {record['threads']} threads: "
            + ("quiet." if load <= record["threads"] + 0.5 else "**other work ran on this machine**, and numbers are noisy."),
            *reading(units),
            "",
            "Tokens are real tokens, without padding. Engines of one number format alternate within a row (README of",
            f"scripts/peers); medians of {record['rounds']} rounds. A ratio is ours by the best peer of the format: of tokens per second,",
            "where more is better, or of time and memory, where less is; bold where it reaches the goal. The limit is the least time",
            "in which the work's operations, or the reading of weights and caches, could be done at the rates measured in the same run;",
            "`unsure` where work was faster than that even when they had been measured again: other work ran then.",
            "",
            *table,
            "",
            *side_by_side(record["units"]),
            *beside_another_model(units),
            *drafting(record["drafts"]),
            "## Parity gate",
            "",
            *markdown(("engine", "size", "least centred cosine", "bound"), gate),
            "",
            "## Left out",
            "",
            *([line for reason, rows in left_out.items() for line in wrapped(f"* {reason} ({', '.join(rows)})")] or ["Nothing."]),
            *[line for dtype, reason in record["refused"].items() for line in wrapped(f"* {OURS} {dtype}: {reason}")],
            "",
            "## Versions",
            "",
            *[line for name, ready in sorted(record["versions"].items()) for line in wrapped(f"* {name}: {ready}")],
            "",
        ]
    )
