"""A grammar of reviews: sentences about goods and services whose sentiment is known,
since they were made for it.

Words alone do not tell it: praise is negated, feared faults stay away, the last half of
a sentence takes back the first, and other people's opinions are quoted and
contradicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.data.sample_surfaces import Dice

POSITIVE, NEGATIVE, NEUTRAL = "positive", "negative", "neutral"
OPPOSITE = {POSITIVE: NEGATIVE, NEGATIVE: POSITIVE}

ADJECTIVES = {
    POSITIVE: (
        "excellent",
        "sturdy",
        "reliable",
        "quiet",
        "handy",
        "lovely",
        "superb",
        "solid",
        "clever",
        "pleasant",
        "brilliant",
        "dependable",
        "comfortable",
        "tidy",
        "charming",
        "precise",
        "robust",
        "smooth",
        "delightful",
        "practical",
        "neat",
        "splendid",
        "generous",
        "thoughtful",
        "accurate",
        "elegant",
        "wonderful",
        "admirable",
        "flawless",
        "swift",
        "great",
        "good",
        "fine",
        "perfect",
        "spotless",
        "durable",
        "cosy",
        "helpful",
        "fantastic",
        "outstanding",
    ),
    NEGATIVE: (
        "awful",
        "flimsy",
        "unreliable",
        "noisy",
        "clumsy",
        "ugly",
        "dreadful",
        "shaky",
        "silly",
        "unpleasant",
        "terrible",
        "erratic",
        "uncomfortable",
        "messy",
        "crude",
        "sloppy",
        "fragile",
        "rough",
        "miserable",
        "useless",
        "shabby",
        "lousy",
        "stingy",
        "careless",
        "faulty",
        "clunky",
        "horrible",
        "shameful",
        "defective",
        "sluggish",
        "bad",
        "poor",
        "weak",
        "broken",
        "filthy",
        "worthless",
        "gloomy",
        "rude",
        "pathetic",
        "disappointing",
    ),
}
EVENTS = {
    POSITIVE: (
        "it still runs like new",
        "it did its job from the first day",
        "it has never let me down",
        "I would buy it again",
        "my whole family loves it",
        "it was worth every penny",
        "I recommend it to everyone",
        "it saved us a lot of time",
        "everything worked at once",
        "we are more than happy",
        "it exceeded my hopes",
        "I smile whenever I see it",
    ),
    NEGATIVE: (
        "it broke after a week",
        "it stopped for no reason",
        "it has let me down twice",
        "I want my money back",
        "nobody here wants to use it",
        "it was a waste of money",
        "I warn everyone about it",
        "it cost us a lot of time",
        "nothing worked as it should",
        "we are thoroughly fed up",
        "it fell short of the promises",
        "I regret it already",
    ),
}
FAULTS = (
    "scratches",
    "leaks",
    "rattling",
    "delays",
    "hidden costs",
    "excuses",
    "loose screws",
    "strange smells",
    "stains",
    "mistakes",
    "gaps",
    "complaints",
)
DOMAINS = {
    "kitchen": (
        (
            "kettle",
            "toaster",
            "blender",
            "mixer",
            "coffee machine",
            "pan",
            "oven",
            "juicer",
        ),
        ("lid", "handle", "cable", "motor", "switch", "manual", "finish", "packaging"),
    ),
    "tools": (
        ("drill", "saw", "lamp", "ladder", "pump", "sander", "vice", "torch"),
        ("grip", "blade", "battery", "case", "trigger", "charger", "thread", "stand"),
    ),
    "travel": (
        (
            "hotel",
            "hostel",
            "ferry",
            "night train",
            "guest house",
            "tour",
            "campsite",
            "cabin",
        ),
        (
            "bed",
            "breakfast",
            "staff",
            "view",
            "bathroom",
            "booking",
            "guide",
            "luggage room",
        ),
    ),
    "culture": (
        (
            "novel",
            "film",
            "concert",
            "play",
            "exhibition",
            "album",
            "podcast",
            "musical",
        ),
        (
            "plot",
            "ending",
            "cast",
            "sound",
            "dialogue",
            "pacing",
            "first half",
            "cover",
        ),
    ),
    "services": (
        (
            "bakery",
            "garage",
            "hairdresser",
            "bank",
            "dentist",
            "library",
            "gym",
            "plumber",
        ),
        (
            "waiting room",
            "receptionist",
            "website",
            "advice",
            "hotline",
            "invoice",
            "entrance",
            "schedule",
        ),
    ),
}
FACTS = (
    "I bought it in {month}.",
    "It comes in {colour}.",
    "We chose the {colour} one.",
    "It arrived on a {day}.",
    "There are {number} of them in the box.",
    "My {person} told me about it.",
    "It stands next to the window.",
    "I paid with a voucher.",
    "This is about the {thing}.",
    "It weighs about {number} pounds.",
    "We went there in {month}.",
    "The {part} is {colour}.",
    "Ours is from {month}.",
    "Does anyone know whether the {part} comes in {colour}?",
)
WORDS = {
    "month": ("January", "March", "April", "June", "August", "October", "December"),
    "day": ("Monday", "Tuesday", "Thursday", "Friday", "Sunday"),
    "colour": ("red", "blue", "grey", "green", "white", "black", "yellow"),
    "number": ("two", "three", "four", "five", "six", "ten"),
    "person": (
        "sister",
        "neighbour",
        "father",
        "colleague",
        "aunt",
        "friend",
        "landlord",
    ),
}


class Scene(NamedTuple):
    """What a review is about.

    Args:
        thing: as "toaster".
        part: of it, as "lid".
    """

    thing: str
    part: str


def pick_scene(dice: Dice, domain: str) -> Scene:
    """A thing of a domain and one of its parts."""
    things, parts = DOMAINS[domain]
    return Scene(dice.pick(things), dice.pick(parts))


def write_review(
    dice: Dice, sentiment: str, domain: str, opinions: int, facts: int
) -> str:
    """A review of so many sentences that tell the sentiment, and so many that tell
    nothing, in any order.

    A neutral one is made of facts, and of an opinion about something else.
    """
    scene = pick_scene(dice, domain)
    sentences = [_fact(dice, scene) for _ in range(facts)]
    for _ in range(opinions):
        if sentiment == NEUTRAL:
            sentence = dice.pick(NEUTRAL_SENTENCES)(
                dice, scene, dice.pick((POSITIVE, NEGATIVE))
            )
        else:
            sentence = dice.pick(SENTENCES)(dice, scene, sentiment)
        sentences.insert(
            dice.between(0, len(sentences)), sentence[0].upper() + sentence[1:]
        )
    return " ".join(sentences)


def _fact(dice: Dice, scene: Scene) -> str:
    chosen = {kind: dice.pick(words) for kind, words in WORDS.items()}
    form = dice.pick(FACTS)
    return form.format(thing=scene.thing, part=scene.part, **chosen)


Sentence = Callable[[Dice, Scene, str], str]


def _subject(dice: Dice, scene: Scene) -> str:
    return dice.pick(
        (
            f"the {scene.thing}",
            f"the {scene.part}",
            f"this {scene.thing}",
            f"the {scene.part} of the {scene.thing}",
        )
    )


def _clause(dice: Dice, scene: Scene, sentiment: str) -> str:
    """A clause that tells a sentiment, a third of them by negation."""
    adjective = dice.pick(ADJECTIVES[sentiment])
    other = dice.pick(ADJECTIVES[OPPOSITE[sentiment]])
    subject = _subject(dice, scene)
    forms = (
        f"{subject} is {adjective}",
        f"{subject} seems {adjective}",
        f"I find {subject} {adjective}",
        dice.pick(EVENTS[sentiment]),
        f"{subject} is not {other}",
        f"{subject} is {dice.pick(('anything but', 'far from', 'by no means', 'never'))} {other}",
    )
    return dice.pick(forms)


def _plain(dice: Dice, scene: Scene, sentiment: str) -> str:
    return _clause(dice, scene, sentiment) + "."


def _contrast(dice: Dice, scene: Scene, sentiment: str) -> str:
    first = _clause(dice, scene, OPPOSITE[sentiment])
    last = _clause(dice, scene, sentiment)
    return dice.pick(
        (
            f"{first}, but in the end {last}.",
            f"although {first}, {last}.",
            f"{last}, even though {first}.",
        )
    )


def _other_opinion(dice: Dice, scene: Scene, sentiment: str) -> str:
    person = dice.pick(WORDS["person"])
    theirs = dice.pick(ADJECTIVES[OPPOSITE[sentiment]])
    mine = dice.pick(ADJECTIVES[sentiment])
    subject = _subject(dice, scene)
    return dice.pick(
        (
            f"my {person} calls {subject} {theirs}; to me it is {mine}.",
            f"others say {subject} is {theirs}, which is wrong: it is {mine}.",
            f"my {person} finds {subject} {theirs}, and I disagree.",
        )
    )


def _expectation(dice: Dice, scene: Scene, sentiment: str) -> str:
    expected = dice.pick(ADJECTIVES[OPPOSITE[sentiment]])
    verb = {POSITIVE: ("feared", "worried"), NEGATIVE: ("hoped", "believed")}[sentiment]
    subject = _subject(dice, scene)
    return dice.pick(
        (
            f"I had {dice.pick(verb)} {subject} would be {expected}; it is not.",
            f"I expected something {expected} and got the opposite.",
            f"they said {subject} was {expected}; it turned out {dice.pick(ADJECTIVES[sentiment])}.",
        )
    )


def _faults(dice: Dice, scene: Scene, sentiment: str) -> str:
    fault = dice.pick(FAULTS)
    other = dice.pick(FAULTS)
    forms = {
        POSITIVE: (
            f"no {fault} and no {other}.",
            f"without any {fault}.",
            f"I looked for {fault} and found none.",
        ),
        NEGATIVE: (
            f"{fault} and {other} everywhere.",
            f"full of {fault}.",
            f"I hoped for no {fault} and found many.",
        ),
    }
    return dice.pick(forms[sentiment])


def _list(dice: Dice, scene: Scene, sentiment: str) -> str:
    first = dice.pick(ADJECTIVES[sentiment])
    second = dice.pick(ADJECTIVES[sentiment])
    subject = _subject(dice, scene)
    return f"{first} and {second}, that is what {subject} is."


def _about_another(dice: Dice, scene: Scene, sentiment: str) -> str:
    """An opinion that is none of the thing under review."""
    adjective = dice.pick(ADJECTIVES[sentiment])
    return dice.pick(
        (
            f"the one we had before was {adjective}.",
            f"my {dice.pick(WORDS['person'])} needs something {adjective}, so I am only asking.",
            f"I have not tried it yet; the old {scene.thing} was {adjective}.",
            f"is {_subject(dice, scene)} {adjective} or not?",
        )
    )


def _undecided(dice: Dice, scene: Scene, sentiment: str) -> str:
    adjective = dice.pick(ADJECTIVES[sentiment])
    return dice.pick(
        (
            f"I cannot say yet whether {_subject(dice, scene)} is {adjective}.",
            f"neither {adjective} nor {dice.pick(ADJECTIVES[OPPOSITE[sentiment]])}.",
            f"some call it {adjective}, some {dice.pick(ADJECTIVES[OPPOSITE[sentiment]])}; I have no opinion.",
        )
    )


SENTENCES: tuple[Sentence, ...] = (
    _plain,
    _plain,
    _contrast,
    _contrast,
    _other_opinion,
    _expectation,
    _faults,
    _list,
)
NEUTRAL_SENTENCES: tuple[Sentence, ...] = (_about_another, _about_another, _undecided)
