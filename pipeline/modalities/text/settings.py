"""What is accepted as a text: a part of the settings of every task on texts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config_section import ConfigSection, Fraction, Positive


class TextIntakeConfig(ConfigSection):
    pair: bool = False
    """whether an example is a pair of texts: the second is in the column that data.columns.pair names"""
    min_characters: Positive = 1
    """reject a text with fewer characters, blanks at its ends not counted"""
    max_characters: Positive = 1_000_000
    """reject a text with more characters"""
    control_characters: Literal["reject", "keep"] = "reject"
    """what to do with a text that holds control characters other than tab and line breaks, such as NUL"""
    max_markup: Fraction = 0.01
    """warn when a larger share of the texts holds HTML tags or entities; 1: never"""
    max_new_words: Fraction = 0.05
    """warn when, of the words of texts that came since the last accepted version, a share larger by this than texts of the same kind would have was never seen before; 1: never"""


class TextInputConfig(ConfigSection):
    max_tokens: Annotated[int, Field(ge=8)] | Literal["auto"] = "auto"
    """most tokens of an example that the network reads; the rest is cut off, and how much is said; auto: what the backbone takes, at most 256"""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """what the head sees of the last layer: the mean of all tokens' vectors, or the first or last token's; auto: as the backbone was made for"""
