"""Makes the shipped text encoder: a small BERT learns to fill in masked words of generated reviews and to rate them.

    python -P -m pipeline.modalities.text.pretrain_encoder --out pipeline/models/shipped/tiny_text --seed 0

The reviews come from `review_grammar`, and none is about what the sample's are about. The vocabulary is learnt from them
(WordPiece, Schuster and Nakajima 2012). Words are masked as in BERT (Devlin et al. 2019, section 3.1). What is said of
the whole review, praise, blame or neither, is told from the mean of the last layer's vectors: as encoders in use learn
from ratings that come with reviews. Masked words alone taught too little in these few steps to be of use to the sample.
The learning rate follows a warm-up and a cosine over the steps; the same machine makes the same weights again.
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
from torch import Tensor, nn

from pipeline.data.sample_surfaces import Dice
from pipeline.modalities.text.review_grammar import (
    DOMAINS,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    write_review,
)
from pipeline.modalities.text.sample_reviews import SAMPLE_DOMAIN
from pipeline.serving.text_tokens import TOKENIZER_FILE, encode, load_tokenizer, pad

CORPUS = 11  # part of the key of every review's dice: the sample's are others
SENTIMENTS = (POSITIVE, NEGATIVE, POSITIVE, NEGATIVE, NEUTRAL)
RATINGS = (POSITIVE, NEGATIVE, NEUTRAL)
MOST_OPINIONS, MOST_FACTS = 3, 2
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
    steps: int = 2500
    batch: int = 32
    reviews: int = 20_000
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


class Review(NamedTuple):
    """A generated review and its rating, a position in `RATINGS`."""

    text: str
    rating: int


def write_corpus(seed: int, reviews: int) -> list[Review]:
    """Reviews of everything but what the sample's are about."""
    domains = tuple(domain for domain in DOMAINS if domain != SAMPLE_DOMAIN)
    corpus = []
    for number in range(reviews):
        dice = Dice(seed, CORPUS, number)
        sentiment = dice.pick(SENTIMENTS)
        domain = dice.pick(domains)
        opinions = dice.between(1, MOST_OPINIONS)
        text = write_review(
            dice, sentiment, domain, opinions, dice.between(0, MOST_FACTS)
        )
        corpus.append(Review(text, RATINGS.index(sentiment)))
    return corpus


def train_tokenizer(texts: Sequence[str], vocabulary: int, folder: Path) -> None:
    """Learns word pieces and writes tokenizer.json, in the form of an uncased BERT's."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[
            ("[CLS]", SPECIAL.index("[CLS]")),
            ("[SEP]", SPECIAL.index("[SEP]")),
        ],
    )
    tokenizer.save(str(folder / TOKENIZER_FILE))


def mask_words(
    ids: Tensor, share: float, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the network is shown of some tokens (N, L), and what it is to say: the ids
    where they are masked.

    Of the chosen ones eight of ten become [MASK], one another word, and one stays.
    """
    draws = torch.rand(ids.shape, generator=generator)
    is_word = ids >= len(SPECIAL)
    chosen = (draws < share) & is_word
    kind = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    is_masked = chosen & (kind < 0.8)
    is_replaced = chosen & (kind >= 0.9)
    shown = torch.where(is_masked, MASK, ids)
    shown = torch.where(is_replaced, others, shown)
    wanted = torch.where(chosen, ids, IGNORED)
    return shown, wanted


class Batch(NamedTuple):
    """Some reviews: padded tokens (N, L) and ratings (N,)."""

    ids: Tensor
    ratings: Tensor


def _batches(
    rows: Sequence[Any], corpus: Sequence[Review], plan: PretrainingPlan
) -> Iterator[Batch]:
    """Batches of texts of about one length, over and over."""
    dice = random.Random(plan.seed)
    pool = 50 * plan.batch
    order: list[int] = []
    while True:
        if len(order) < pool:
            order = list(range(len(rows)))
            dice.shuffle(order)
        drawn = sorted(order[:pool], key=lambda row: len(rows[row]))
        order = order[pool:]
        batches = []
        for start in range(0, pool, plan.batch):
            batches.append(drawn[start : start + plan.batch])
        dice.shuffle(batches)
        for batch in batches:
            ids = pad(
                [rows[row] for row in batch],
                max(len(rows[row]) for row in batch),
                PADDING,
            )
            ratings = [corpus[row].rating for row in batch]
            yield Batch(torch.from_numpy(ids), torch.tensor(ratings))


class RatingEncoder(nn.Module):
    """The encoder under training: BERT with its masked-word head, and a linear layer
    that rates.

    Args:
        settings: config.json of the encoder.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from transformers import BertConfig, BertForMaskedLM

        super().__init__()
        values = {key: value for key, value in settings.items() if key != "model_type"}
        self.words: Any = BertForMaskedLM(BertConfig(**values))
        self.rater = nn.Linear(settings["hidden_size"], len(RATINGS))

    def losses(
        self, batch: Batch, shown: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """That of the masked words, and that of the ratings.

        Args:
            shown: the tokens with some masked (N, L).
            wanted: what they are, or `IGNORED` (N, L).
        """
        mask = (batch.ids != PADDING).long()
        of_words = self.words(input_ids=shown, attention_mask=mask, labels=wanted).loss
        encoded = self.words.bert(input_ids=batch.ids, attention_mask=mask)
        hidden = encoded.last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        ratings = self.rater(mean)
        of_ratings = nn.functional.cross_entropy(ratings, batch.ratings)
        return of_words, of_ratings


def pretrain(plan: PretrainingPlan, out: Path) -> float:
    """Trains the encoder, writes config.json, model.safetensors (fp16) and
    tokenizer.json; returns the mean loss of the last hundred steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(plan.seed, plan.reviews)
    texts = [review.text for review in corpus]
    train_tokenizer(texts, plan.vocabulary, out)
    tokenizer = load_tokenizer(out)
    vocabulary = tokenizer.get_vocab_size()
    rows = encode(tokenizer, texts, None, MOST_TOKENS).ids
    torch.manual_seed(plan.seed)
    settings = {**SIZES, "vocab_size": vocabulary}
    model = RatingEncoder(settings)
    losses = _train(model, _batches(rows, corpus, plan), vocabulary, plan)
    _write_encoder(model, settings, out)
    return float(np.mean(losses[-100:], axis=0).sum())


def _train(
    model: RatingEncoder,
    batches: Iterator[Batch],
    vocabulary: int,
    plan: PretrainingPlan,
) -> list[tuple[float, float]]:
    """The losses of words and of ratings, step by step."""
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay
    )
    losses: list[tuple[float, float]] = []
    model.train()
    for step, batch in zip(range(plan.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * _lr_multiplier(step, plan)
        shown, wanted = mask_words(batch.ids, plan.masked, vocabulary, generator)
        of_words, of_ratings = model.losses(batch, shown, wanted)
        optimizer.zero_grad()
        torch.autograd.backward(of_words + of_ratings)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append((float(of_words.detach()), float(of_ratings.detach())))
        if (step + 1) % 100 == 0:
            words, ratings = np.mean(losses[-100:], axis=0)
            log.info(
                "step %d: loss of words %.3f, of ratings %.3f", step + 1, words, ratings
            )
    return losses


def _lr_multiplier(step: int, plan: PretrainingPlan) -> float:
    warmup_steps = plan.warmup * plan.steps
    warmed_up = min(1.0, (step + 1) / warmup_steps)
    angle = math.pi * step / plan.steps
    return warmed_up * 0.5 * (1 + math.cos(angle))


def _write_encoder(model: RatingEncoder, settings: dict[str, Any], out: Path) -> None:
    state = {}
    for name, tensor in model.words.bert.state_dict().items():
        state[name] = tensor.half().contiguous()
    save_file(state, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def main() -> None:
    """Reads the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description="Pretrains the shipped text encoder.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=PretrainingPlan().steps)
    chosen = parser.parse_args()
    plan = PretrainingPlan(seed=chosen.seed, steps=chosen.steps)
    pretrain(plan, chosen.out)


if __name__ == "__main__":
    main()
