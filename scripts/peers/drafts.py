"""Drafting on a trained model: random weights repeat nothing, and nothing could be guessed."""

from __future__ import annotations

import json
import statistics
from typing import Any

from engines import BINARIES
from host import ROOT
from measure import TURN, Settings
from process import Failed, Worker
from rows import DRAFTED_TOKENS, Draft, quoting

MODEL = ROOT / "models" / "nano-decoder"
SAMPLE = ROOT / "tests" / "fixtures" / "valid_sample.jsonl"
MODES = ("plain", "drafted")


def measure(draft: Draft, dtype: str, settings: Settings) -> dict[str, Any]:
    """Plain and drafted decoding of the same prompts, one after another, in turns; both must say the same."""
    texts = quoting([json.loads(line)["text"] for line in SAMPLE.read_text().splitlines()])
    work = {"kind": "generate", "texts": texts, "new_tokens": DRAFTED_TOKENS}
    works = {"plain": work, "drafted": work | {"draft": draft.draft}}
    command = [str(BINARIES / "examples" / "peer"), "--model", str(MODEL), "--dtype", dtype]
    environment = {"RAYON_NUM_THREADS": str(settings.threads)}
    logs = settings.workdir / "logs"
    logs.mkdir(exist_ok=True)
    workers: dict[str, Worker] = {}
    try:
        for mode in MODES:
            workers[mode] = Worker(command, environment, logs / f"{mode}-{dtype}.log")
        warm = {mode: workers[mode](works[mode], settings.patience) for mode in MODES}
        plain, drafted = (warm[mode]["generated"] for mode in MODES)
        if plain["ids"] != drafted["ids"]:
            raise Failed(f"drafting ({draft.draft}) changed what is generated")
        repeat = max(1, round(TURN / warm["drafted"]["seconds"][0]))
        seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(settings.rounds):
            for mode in MODES:
                answer = workers[mode](works[mode] | {"repeat": repeat}, 4 * settings.patience)
                seconds[mode].append(statistics.median(answer["seconds"]))
    finally:
        for worker in workers.values():
            worker.close()
    tokens = warm["plain"]["tokens"]
    rates = {mode: tokens / statistics.median(seconds[mode]) for mode in MODES}
    counts = {"drafted_tokens": drafted["drafted"], "accepted_tokens": drafted["accepted"]}
    return {"values": rates, "seconds": seconds, "tokens": tokens, "dtype": dtype} | counts
