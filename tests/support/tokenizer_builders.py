"""A small tokenizer of the kind BERT has, written without any library."""

from __future__ import annotations

import json
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "good",
    "bad",
    "film",
    "very",
    "the",
    "a",
    "was",
    "##s",
    "##ly",
    "plot",
    "music",
    "dull",
)


def write_tokenizer(
    folder: Path, vocabulary: tuple[str, ...] = SPECIAL + WORDS
) -> Path:
    """Writes tokenizer.json: lower case, word pieces, [CLS] text [SEP] and [CLS] text
    [SEP] pair [SEP].
    """
    ids = {word: number for number, word in enumerate(vocabulary)}
    added = []
    for word in SPECIAL:
        flags = {
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        added.append({"id": ids[word], "content": word, **flags})
    first = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    end, second_end = (
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    )
    special = {
        name: {"id": name, "ids": [ids[name]], "tokens": [name]}
        for name in ("[CLS]", "[SEP]")
    }
    content = {
        "version": "1.0",
        "truncation": {
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*first, end],
            "pair": [*first, end, {"Sequence": {"id": "B", "type_id": 1}}, second_end],
            "special_tokens": special,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
