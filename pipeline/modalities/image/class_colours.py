"""The colours that classes have wherever masks and boxes are drawn."""

from __future__ import annotations

# Okabe and Ito's colours, told apart by those who do not tell red from green, too.
COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
COLOUR_NAMES = ("blue", "orange", "green", "pink", "sky blue", "red", "yellow")
