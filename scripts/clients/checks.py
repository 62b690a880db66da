"""What the scripts of all clients share: where the servers are, what the command line answers, a row for each check."""

import array
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version

URL = os.environ["ETTIN_URL"]  # the embedded pair first, then the other models
OF_ONE_TASK = json.loads(os.environ["ETTIN_URLS"])  # servers of one model, for clients that name none
BINARY = os.environ["ETTIN_BINARY"]
MODELS = os.environ["ETTIN_MODELS"]

ENCODER, DECODER = "nano-encoder", "nano-decoder"
RANKER = f"{MODELS}/tiny-text-rerank-sigmoid"
CLASSIFIER = f"{MODELS}/tiny-text-classify-single"
TAGGER = f"{MODELS}/tiny-text-tag"
READER = f"{MODELS}/tiny-text-answer"

TEXTS = ["A cat sits on the mat.", "Stocks fell sharply today, and nobody knew why.", "Où est la bibliothèque ?", "🙂"]
QUERY = "How do I bake bread?"
DOCUMENTS = ["The train leaves at noon.", "Mix flour, water, salt and yeast.", "Bake it for an hour."]


def ettin(*arguments):
    """What the command line answers, as JSON."""
    command = [BINARY, *arguments, "--format", "json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout)


def f32(values):
    """Numbers as the engine has them: JSON and base64 differ in how they write the same float."""
    return array.array("f", values).tolist()


def vectors(texts, model=ENCODER, normalize=True, *more):
    flags = ["--normalize"] if normalize else ["--no-normalize"]
    return [f32(row["embedding"]) for row in ettin("embed", "-m", model, *flags, *more, *texts)]


def ranking():
    """Indices and scores, best first."""
    [ranks] = ettin("rerank", "-m", RANKER, QUERY, *DOCUMENTS)
    return [(rank["index"], f32([rank["score"]])[0]) for rank in ranks]


def ranked(pairs):
    return [(index, f32([score])[0]) for index, score in pairs]


def continuation(prompt, tokens):
    [answer] = ettin("generate", "-m", DECODER, "--max-new-tokens", str(tokens), prompt)
    return answer["text"]


def equal(got, expected):
    if got != expected:
        raise AssertionError(f"got {str(got)[:300]}, expected {str(expected)[:300]}")


failures = 0


def check(package, what):
    """Runs a function at once and prints a row: client, check, result, reason."""

    def run(function):
        global failures
        begun, result, reason = time.monotonic(), "ok", ""
        try:
            function()
        except Exception as error:
            result, reason = "FAILED", " ".join(f"{type(error).__name__}: {error}".split())[:400]
            failures += 1
        milliseconds = 1000 * (time.monotonic() - begun)
        print(f"{package} {version(package)}\t{what}\t{result}\t{milliseconds:.0f} ms\t{reason}", flush=True)
        return function

    return run


def done():
    sys.exit(1 if failures else 0)
