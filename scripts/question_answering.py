"""The question-answering pipeline of transformers 4.57 in our own words: it left the library within version 5."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def answer_question(
    model: Any,
    tokenizer: Any,
    question: str,
    context: str,
    top_k: int = 1,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
    max_seq_len: int = 384,
) -> list[dict[str, Any]]:
    """Extractive answers, best first; always a list, where the pipeline unwrapped a single answer.

    Start and end are softmaxed over the context's tokens and [CLS]; [CLS] is then zeroed (its product is the score of
    "impossible"); spans of at most `max_answer_len` tokens are ranked by product; spans become whole words; equal
    answers (case aside) add up their scores.
    """
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=min(max_seq_len // 2, 128),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    answers: list[dict[str, Any]] = []
    null_score = 1e6
    # Widening to words makes several spans one answer: more are looked at than asked for.
    spans = 2 * top_k + 10 if align_to_words else top_k
    for window in range(len(windows["input_ids"])):
        ids = windows["input_ids"][window]
        allowed = np.array([sequence == 1 for sequence in windows.sequence_ids(window)])
        allowed |= np.array(ids) == tokenizer.cls_token_id
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids]))
        start, end = (masked_softmax(logits[0].numpy(), allowed) for logits in (output.start_logits, output.end_logits))
        null_score = min(null_score, float(start[0] * end[0]))
        start[0] = end[0] = 0.0
        scores = np.tril(np.triu(np.outer(start, end)), max_answer_len - 1)
        encoding = windows[window]
        for flat in np.argsort(-scores, axis=None, kind="stable")[:spans]:
            first, last = np.unravel_index(flat, scores.shape)
            if not (allowed[first] and allowed[last]):
                continue
            begin, stop = characters(encoding, int(first), int(last), align_to_words)
            text = context[begin:stop]
            same = next((known for known in answers if known["answer"].lower() == text.lower()), None)
            if same:
                same["score"] += float(scores[first, last])
            else:
                answers.append({"answer": text, "score": float(scores[first, last]), "start": begin, "end": stop})
    if handle_impossible_answer:
        answers.append({"answer": "", "score": null_score, "start": 0, "end": 0})
    return sorted(answers, key=lambda known: known["score"], reverse=True)[:top_k]


def masked_softmax(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    masked = np.where(allowed, logits, -10000.0)
    weights = np.exp(masked - masked.max())
    return weights / weights.sum()


def characters(encoding: Any, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    """The characters of a token span, widened to the words that it begins and ends in."""
    if align_to_words:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        if None not in words:
            return encoding.word_to_chars(words[0], 1)[0], encoding.word_to_chars(words[1], 1)[1]
    return encoding.offsets[first][0], encoding.offsets[last][1]
