"""Makes the shipped text encoder: a small BERT learns to fill in masked words of generated reviews.

    python -P -m pipeline.modalities.text.pretrain_encoder --out pipeline/models/shipped/tiny_text --seed 0

The reviews come from the whole of `review_grammar`: about many more things than those of the sample, and longer. The
vocabulary is learnt from them too (WordPiece, Schuster and Nakajima 2012). Words are masked as in BERT (Devlin et al.
2019, section 3.1). The rate follows a warm-up and a cosine over the steps; the same machine makes the same weights
again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.sample_surfaces import Dice
from pipeline.modalities.text.review_grammar import DOMAINS, NEGATIVE, NEUTRAL, POSITIVE, write_review
from pipeline.serving.text_tokens import TOKENIZER_FILE, encode, load_tokenizer

CORPUS = 11  # part of the key of every review's dice: the sample's are others
SENTIMENTS = (POSITIVE, NEGATIVE, POSITIVE, NEGATIVE, NEUTRAL)
MOST_OPINIONS, MOST_FACTS = 4, 1
MOST_TOKENS = 128
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PADDING, MASK = 0, 4
IGNORED = -100

log = logging.getLogger(__name__)


class PretrainingPlan(NamedTuple):
    """How long and on what to train.

    Args:
        reviews: how many are written; they are seen over again.
        vocabulary: most word pieces.
        masked: share of the words that are to be filled in.
    """

    seed: int = 0
    steps: int = 1400
    batch: int = 32
    reviews: int = 40_000
    vocabulary: int = 2000
    masked: float = 0.2
    lr: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01


SIZES = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": MOST_TOKENS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "pad_token_id": PADDING,
}


def write_corpus(seed: int, reviews: int) -> list[str]:
    """Reviews of everything, of one to five opinions each."""
    domains = tuple(DOMAINS)
    texts = []
    for number in range(reviews):
        dice = Dice(seed, CORPUS, number)
        sentiment = dice.pick(SENTIMENTS)
        opinions = dice.between(1, MOST_OPINIONS)
        texts.append(write_review(dice, sentiment, dice.pick(domains), opinions, dice.between(0, MOST_FACTS)))
    return texts


def train_tokenizer(texts: Sequence[str], vocabulary: int, folder: Path) -> None:
    """Learns word pieces and writes tokenizer.json, in the form of an uncased BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    tokenizer.save(str(folder / TOKENIZER_FILE))


def mask_words(ids: Tensor, share: float, vocabulary: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the network is shown of some tokens (N, L), and what it is to say: the ids where they are masked.

    Of the chosen ones eight of ten become [MASK], one another word, and one stays.
    """
    draws = torch.rand(ids.shape, generator=generator)
    chosen = (draws < share) & (ids >= len(SPECIAL))
    kind = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    shown = torch.where(chosen & (kind < 0.8), MASK, ids)
    shown = torch.where(chosen & (kind >= 0.9), others, shown)
    return shown, torch.where(chosen, ids, IGNORED)


def _batches(rows: Sequence[Any], plan: PretrainingPlan) -> Iterator[Tensor]:
    """Padded tokens (N, L), over and over, of texts of about one length."""
    dice = random.Random(plan.seed)
    pool = 50 * plan.batch
    order: list[int] = []
    while True:
        if len(order) < pool:
            order = list(range(len(rows)))
            dice.shuffle(order)
        drawn = sorted(order[:pool], key=lambda row: len(rows[row]))
        order = order[pool:]
        batches = [drawn[start : start + plan.batch] for start in range(0, pool, plan.batch)]
        dice.shuffle(batches)
        for batch in batches:
            longest = max(len(rows[row]) for row in batch)
            padded = np.full((len(batch), longest), PADDING, np.int64)
            for position, row in enumerate(batch):
                padded[position, : len(rows[row])] = rows[row]
            yield torch.from_numpy(padded)


def pretrain(plan: PretrainingPlan, out: Path) -> float:
    """Trains the encoder, writes config.json, model.safetensors (fp16) and tokenizer.json; returns the mean loss of the
    last hundred steps."""
    from transformers import BertConfig, BertForMaskedLM

    out.mkdir(parents=True, exist_ok=True)
    texts = write_corpus(plan.seed, plan.reviews)
    train_tokenizer(texts, plan.vocabulary, out)
    tokenizer = load_tokenizer(out)
    vocabulary = tokenizer.get_vocab_size()
    rows = encode(tokenizer, texts, None, MOST_TOKENS).ids
    torch.manual_seed(plan.seed)
    settings = {**SIZES, "vocab_size": vocabulary}
    model: Any = BertForMaskedLM(BertConfig(**{key: value for key, value in settings.items() if key != "model_type"}))
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    rise = plan.warmup * plan.steps
    losses: list[float] = []
    model.train()
    for step, ids in zip(range(plan.steps), _batches(rows, plan), strict=False):
        rate = min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate
        shown, wanted = mask_words(ids, plan.masked, vocabulary, generator)
        loss = model(input_ids=shown, attention_mask=(ids != PADDING).long(), labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            log.info("step %d: loss %.3f", step + 1, sum(losses[-100:]) / 100)
    state = {name: tensor.half().contiguous() for name, tensor in model.bert.state_dict().items()}
    save_file(state, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return sum(losses[-100:]) / len(losses[-100:])


def main() -> None:
    """Reads the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description="Pretrains the shipped text encoder.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=PretrainingPlan().steps)
    chosen = parser.parse_args()
    pretrain(PretrainingPlan(seed=chosen.seed, steps=chosen.steps), chosen.out)


if __name__ == "__main__":
    main()
