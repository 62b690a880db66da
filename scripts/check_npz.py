"""Checks with scipy that `embed --format npz` writes the matrix of `--format jsonl`.

    python scripts/check_npz.py target/debug/ettin-run     # needs scipy 1.17
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["A kitten rested.", "", "The CAT sat on the mat.", "x"]
ASK = ["embed", "--quiet", "--model", str(ROOT / "models" / "tiny-text-masked"), "--pooling", "splade", *TEXTS]


def main() -> None:
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "vectors.npz"
        subprocess.run([binary, *ASK, "--format", "npz", "--output", str(path)], check=True)
        matrix = scipy.sparse.load_npz(path)
        # What scipy writes itself has the same arrays.
        scipy.sparse.save_npz(Path(place) / "again.npz", matrix, compressed=False)
        ours, theirs = np.load(path), np.load(Path(place) / "again.npz")
    lines = subprocess.run([binary, *ASK, "--format", "jsonl"], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    assert isinstance(matrix, scipy.sparse.csr_matrix) and matrix.shape == (len(TEXTS), 512), matrix
    for row, expected in zip(matrix, rows, strict=True):
        assert row.indices.tolist() == expected["indices"]
        assert np.array_equal(row.data, np.array(expected["values"], dtype=np.float32))
    assert set(ours.files) == set(theirs.files), (ours.files, theirs.files)
    for name in ours.files:
        assert np.array_equal(ours[name], theirs[name]), name
    print(f"{matrix.nnz} values of {matrix.shape[0]} vectors, as in JSON; scipy {scipy.__version__}")


if __name__ == "__main__":
    main()
