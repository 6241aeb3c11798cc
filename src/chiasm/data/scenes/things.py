"""What a scene can hold: 40 things, 8 colours, and which pairs of the two are kept out of training.

Ten things are handwritten digits, thirty are pictograms that DejaVu Sans (it comes with matplotlib) can draw.
"""

from __future__ import annotations

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PICTOGRAMS = {
    "sun": "\u2600",
    "cloud": "\u2601",
    "umbrella": "\u2602",
    "snowman": "\u2603",
    "star": "\u2605",
    "telephone": "\u260e",
    "cup": "\u2615",
    "clover": "\u2618",
    "moon": "\u263e",
    "king": "\u265a",
    "castle": "\u265c",
    "horse": "\u265e",
    "spade": "\u2660",
    "heart": "\u2665",
    "note": "\u266b",
    "die": "\u2684",
    "flag": "\u2691",
    "anchor": "\u2693",
    "balance": "\u2696",
    "gear": "\u2699",
    "lightning": "\u26a1",
    "airplane": "\u2708",
    "envelope": "\u2709",
    "pencil": "\u270e",
    "flower": "\u273f",
    "snowflake": "\u2744",
    "arrow": "\u279c",
    "house": "\u2302",
    "keyboard": "\u2328",
    "cat": "\U0001f431",
}

THINGS = (*DIGITS, *PICTOGRAMS)

COLOURS = {  # red, green, blue in 0..255
    "red": (217, 38, 38),
    "green": (26, 153, 51),
    "blue": (38, 77, 230),
    "yellow": (242, 204, 26),
    "purple": (140, 51, 191),
    "orange": (255, 128, 13),
    "black": (20, 20, 20),
    "brown": (128, 77, 31),
}

BACKGROUNDS = ((247, 247, 247), (204, 217, 230), (242, 237, 204), (219, 236, 222), (240, 224, 230))

_THING_NUMBER = {name: number for number, name in enumerate(THINGS)}
_COLOUR_NUMBER = {name: number for number, name in enumerate(COLOURS)}


def held_out(thing: str, colour: str) -> bool:
    """Whether this pair occurs in `test_new_pairs` only: 32 of the 320 pairs, four of every colour, at most one of every thing."""
    return (7 * _THING_NUMBER[thing] + 3 * _COLOUR_NUMBER[colour]) % 10 == 0


# thing -> its colour that training never shows
NEW_COLOUR = {thing: colour for thing in THINGS for colour in COLOURS if held_out(thing, colour)}
