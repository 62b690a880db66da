"""Limits that work passes: measured again, and marked where they are passed still. `python -m unittest discover scripts/peers`."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from measure import AGAIN, limit, settled, settled_peak
from report import limit_cells
from rows import ROWS


def measured(seconds: list[float]) -> Callable[[], dict[str, Any]]:
    """What measuring gives, time after time; once more is a failure."""
    left = iter(seconds)
    return lambda: {"limit_seconds": next(left), "bound": "memory"}


class Limits(unittest.TestCase):
    def test_a_limit_that_holds_is_not_measured_again(self) -> None:
        self.assertEqual(settled({"limit_seconds": 0.5, "bound": "arithmetic"}, 0.5, measured([])), {"limit_seconds": 0.5, "bound": "arithmetic"})

    def test_one_that_is_passed_is_and_the_best_counts(self) -> None:
        self.assertEqual(settled({"limit_seconds": 0.9, "bound": "arithmetic"}, 0.5, measured([0.4]))["limit_seconds"], 0.4)
        found = settled({"limit_seconds": 0.9, "bound": "arithmetic"}, 0.5, measured([1.2, 0.3]))
        self.assertEqual(found, {"limit_seconds": 0.3, "bound": "memory"})
        self.assertEqual(settled_peak(100.0, 90.0, 0.5, iter([70.0, 300.0]).__next__), 300.0)

    def test_one_that_is_passed_again_and_again_is_marked_and_reaches_no_goal(self) -> None:
        answer = {"seconds": [0.5], "limit_seconds": 0.9, "bound": "memory", "weight_bytes": 1}
        answer |= settled(answer, 0.5, measured([0.8] * AGAIN))
        result = limit([answer]) | {"value": 1.0, "tokens": 1}
        self.assertEqual(result["share"], 1.6)
        _, text, _ = limit_cells(ROWS["tg128"], "150m", "bf16", result, None, None)
        self.assertEqual(text, "unsure: 160 %")
        _, text, _ = limit_cells(ROWS["32x128"], "150m", "bf16", {"value": 2.0, "tokens": 2}, 90.0, 50.0)
        self.assertEqual(text, "unsure: 180 %")
        _, text, _ = limit_cells(ROWS["tg128"], "150m", "bf16", result | {"share": 0.4}, None, None)
        self.assertEqual(text, "40 % (memory)")


if __name__ == "__main__":
    unittest.main()
