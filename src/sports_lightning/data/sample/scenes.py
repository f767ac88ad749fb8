"""Synthetic scenes of ten sports for the sample dataset.

A scene shows the field and equipment of its sport. Colors, light, positions, sizes, people and clutter are random, and
sports share fields, people and balls, so that no single pixel or color determines the class.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from sports_lightning.data.sample.canvas import GREENS, SKINS, Scene


def draw_scene(sport: str, draws: np.random.Generator) -> Image.Image:
    """One image of `sport` (a key of SPORTS), RGB, SIZE × SIZE."""
    scene = Scene(draws)
    SPORTS[sport](scene)
    return scene.finish()


def _archery(s: Scene) -> None:
    s.outdoors(s.pick(GREENS))
    x, y, radius = s.uniform(55, 85), s.uniform(40, 65), s.uniform(8, 16)
    s.line([(x - radius, 92), (x, y)], s.pick([(120, 85, 50)]), 2)
    s.line([(x + radius, 92), (x, y)], s.pick([(120, 85, 50)]), 2)
    for ring, color in enumerate([(240, 240, 235), (40, 40, 45), (70, 150, 210), (215, 60, 55), (245, 215, 70)]):
        s.disc(x, y, radius * (1 - ring * 0.2), s.near(color, 15))
    hand = s.person(s.uniform(12, 35), s.uniform(85, 95), s.uniform(40, 60), arms=s.uniform(-0.15, 0.2))
    bow = s.uniform(8, 14)
    s.line(
        [
            (hand[0] - 3, hand[1] - bow),
            (hand[0] + 2, hand[1] - bow / 2),
            (hand[0] + 3, hand[1]),
            (hand[0] + 2, hand[1] + bow / 2),
            (hand[0] - 3, hand[1] + bow),
        ],
        s.color(),
        1.5,
    )
    s.line([(hand[0] - 9, hand[1]), (hand[0] + 5, hand[1])], (60, 50, 40), 0.8)


def _basketball(s: Scene) -> None:
    s.indoors(s.pick([(205, 150, 95), (180, 120, 75), (190, 165, 130)]))
    x, y = s.uniform(55, 85), s.uniform(12, 28)
    s.line([(x + 10, 90), (x + 10, y)], s.color(), 2)
    s.box(x - 13, y - 9, x + 13, y + 8, s.pick([(240, 240, 240), (210, 225, 235)]))
    rim = s.pick([(225, 95, 40)])
    s.line([(x - 6, y + 5), (x + 6, y + 5)], rim, 1.6)
    for strand in range(-6, 7, 3):
        s.line([(x + strand, y + 5), (x + strand * 0.6, y + 14)], (235, 235, 235), 0.7)
    s.people(3)
    hand = s.person(s.uniform(15, 50), s.uniform(80, 95), s.uniform(35, 52), arms=s.uniform(0.3, 1.4))
    s.disc(hand[0], hand[1] - 4, s.uniform(3.5, 5), s.pick([(220, 120, 50), (190, 90, 45)]), (60, 35, 25), 0.6)


def _bowling(s: Scene) -> None:
    s.indoors(s.near(s.color(), 10))
    middle, top = s.uniform(35, 65), s.horizon
    s.polygon(
        [(middle - 8, top), (middle + 8, top), (middle + 34, 100), (middle - 34, 100)],
        s.pick([(215, 170, 110), (190, 140, 90)]),
    )
    for side in (-1, 1):
        s.line([(middle + side * 8, top), (middle + side * 34, 100)], (60, 55, 60), 1.8)
    for row in range(3, -1, -1):
        for pin in range(row + 1):
            if s.uniform(0, 1) < 0.85:
                x, y = middle + (pin - row / 2) * 4.4, top + 5 - row * 1.3
                s.disc(x, y, 1.9, (245, 245, 240))
                s.disc(x, y - 3.4, 1.1, (245, 245, 240))
                s.line([(x - 1, y - 2.2), (x + 1, y - 2.2)], (205, 50, 50), 0.7)
    s.disc(middle + s.uniform(-12, 12), s.uniform(65, 90), s.uniform(4, 8), s.color())
    if s.uniform(0, 1) < 0.6:
        s.person(s.uniform(10, 90), 97, s.uniform(38, 55))


def _cycling(s: Scene) -> None:
    s.outdoors(s.pick([*GREENS, (185, 165, 120)]))
    s.box(0, s.uniform(62, 72), 100, 100, s.pick([(120, 120, 125), (90, 90, 95), (175, 150, 115)]))
    for _ in range(int(s.draws.integers(1, 3))):
        x, y, r = s.uniform(25, 70), s.uniform(72, 88), s.uniform(7, 11)
        frame = s.color()
        for wheel in (x - 1.3 * r, x + 1.3 * r):
            s.disc(wheel, y, r, None, (30, 30, 30), 1.3)
        seat, bar, crank = (x - 0.6 * r, y - 1.4 * r), (x + 0.9 * r, y - 1.5 * r), (x, y)
        for a, b in ((seat, crank), (seat, bar), (crank, bar), (crank, (x - 1.3 * r, y)), (bar, (x + 1.3 * r, y))):
            s.line([a, b], frame, 1.3)
        shoulder = (x + 0.5 * r, y - 3 * r)
        s.line([seat, (x + 0.6 * r, y - 1.0 * r), crank], s.color(), r * 0.3)
        s.line([seat, shoulder], s.color(), r * 0.6)
        s.line([shoulder, bar], s.pick(SKINS), r * 0.25)
        s.disc(shoulder[0] + 0.4 * r, shoulder[1] - 0.4 * r, r * 0.42, s.color())


def _sailing(s: Scene) -> None:
    s.outdoors(s.pick([(50, 105, 150), (70, 130, 140), (40, 80, 120)]))
    _waves(s)
    for _ in range(int(s.draws.integers(1, 4))):
        x, y, k = s.uniform(20, 80), s.uniform(s.horizon + 12, 85), s.uniform(0.5, 1.4)
        tilt = s.uniform(-6, 6)
        top = (x + tilt * k, y - 42 * k)
        s.polygon(
            [(x - 12 * k, y - 3 * k), (x + 13 * k, y - 3 * k), (x + 8 * k, y + 3 * k), (x - 9 * k, y + 3 * k)],
            s.color(),
        )
        s.line([(x, y - 3 * k), top], (110, 90, 70), 1)
        s.polygon([(x - 1, y - 6 * k), top, (x - 15 * k, y - 6 * k)], s.pick([(245, 245, 240), s.color()]))
        s.polygon([(x + 1, y - 6 * k), top, (x + 10 * k, y - 6 * k)], s.pick([(240, 235, 225), s.color()]))


def _skiing(s: Scene) -> None:
    s.outdoors(s.pick([(235, 240, 245), (215, 225, 240)]))
    left, right = s.uniform(25, 55), s.uniform(55, 90)
    s.polygon([(0, left), (100, right), (100, 100), (0, 100)], s.pick([(238, 242, 248), (222, 230, 242)]))
    for _ in range(int(s.draws.integers(0, 7))):
        x, y, h = s.uniform(0, 100), s.uniform(35, 90), s.uniform(8, 18)
        s.polygon([(x - h * 0.3, y), (x + h * 0.3, y), (x, y - h)], s.pick([(40, 80, 60), (50, 95, 80)]))
    for _ in range(int(s.draws.integers(0, 4))):
        x, y = s.uniform(5, 95), s.uniform(60, 92)
        s.line([(x, y), (x, y - 12)], s.pick([(205, 50, 50), (50, 80, 190)]), 1.2)
    x, feet, height = s.uniform(30, 70), s.uniform(68, 88), s.uniform(28, 42)
    slope = (right - left) / 100
    hand = s.person(x, feet, height, arms=s.uniform(-0.9, 0.1), lean=s.uniform(-5, 5))
    for shift in (-3, 3):
        s.line([(x - 15, feet + shift / 2 - 15 * slope), (x + 17, feet + shift / 2 + 17 * slope)], s.color(), 1.5)
    s.line([hand, (hand[0] + s.uniform(-10, 4), feet + 3)], (50, 50, 55), 0.9)


def _soccer(s: Scene) -> None:
    s.outdoors(s.pick(GREENS))
    x, y, width, height = (
        s.uniform(10, 50),
        s.uniform(s.horizon - 6, s.horizon + 4),
        s.uniform(30, 50),
        s.uniform(16, 26),
    )
    for step in np.arange(0, width, 4):
        s.line([(x + step, y), (x + step, y + height)], (215, 220, 220), 0.4)
    for step in np.arange(0, height, 4):
        s.line([(x, y + step), (x + width, y + step)], (215, 220, 220), 0.4)
    s.line([(x, y + height), (x, y), (x + width, y), (x + width, y + height)], (245, 245, 245), 1.8)
    s.line([(0, s.uniform(75, 95)), (100, s.uniform(75, 95))], (240, 240, 240), 1.2)
    s.people(4)
    player = s.uniform(20, 75)
    s.person(player, 90, s.uniform(32, 48))
    ball = s.uniform(2.5, 4.5)
    bx, by = player + s.uniform(8, 18), s.uniform(80, 93)
    s.disc(bx, by, ball, (245, 245, 245), (40, 40, 40), 0.5)
    s.disc(bx, by, ball * 0.35, (30, 30, 30))


def _swimming(s: Scene) -> None:
    s.indoors(s.pick([(60, 160, 200), (80, 180, 205), (50, 130, 180)]))
    _waves(s)
    vanish = s.uniform(20, 80)
    for lane in range(-3, 9):
        start, end = (vanish + (lane * 20 - vanish) * 0.35, s.horizon), (lane * 20.0, 100.0)
        for i in range(0, 14):
            f, g = i / 14, (i + 0.8) / 14
            a = (start[0] + (end[0] - start[0]) * f, start[1] + (end[1] - start[1]) * f)
            b = (start[0] + (end[0] - start[0]) * g, start[1] + (end[1] - start[1]) * g)
            s.line([a, b], (215, 60, 60) if i % 2 else (240, 240, 240), 0.6 + f)
    for _ in range(int(s.draws.integers(1, 5))):
        x, y, r = s.uniform(10, 90), s.uniform(s.horizon + 8, 92), s.uniform(2, 4)
        skin = s.pick(SKINS)
        s.line([(x, y), (x + 3.5 * r, y + 0.4 * r)], skin, r * 1.2)
        s.line([(x + r, y), (x - r, y - 2.5 * r), (x - 3 * r, y - r)], skin, r * 0.5)
        s.disc(x, y, r, s.color())
        for _ in range(6):
            s.disc(x + s.uniform(-4, 5) * r, y + s.uniform(-0.5, 1.5) * r, r * 0.3, (240, 248, 250))


def _tennis(s: Scene) -> None:
    ground = s.pick([(70, 120, 170), (195, 110, 70), (85, 140, 80)])
    (s.outdoors if s.uniform(0, 1) < 0.6 else s.indoors)(ground)
    net = s.uniform(s.horizon + 8, 62)
    for x in (s.uniform(5, 25), s.uniform(75, 95)):
        s.line([(50 + (x - 50) * 0.6, s.horizon), (x, 100)], (240, 240, 240), 1)
    s.line([(0, s.uniform(80, 97)), (100, s.uniform(80, 97))], (240, 240, 240), 1)
    for x in range(0, 101, 4):
        s.line([(x, net), (x, net + 11)], (50, 55, 60), 0.4)
    for y in range(0, 12, 3):
        s.line([(0, net + y), (100, net + y)], (50, 55, 60), 0.4)
    s.line([(0, net), (100, net)], (245, 245, 245), 1.6)
    x = s.uniform(20, 70)
    hand = s.person(x, s.uniform(85, 96), s.uniform(36, 52), arms=s.uniform(-0.3, 1.2))
    angle, reach = s.uniform(0, 1.3), s.uniform(7, 10)
    head = (hand[0] + math.cos(angle) * reach, hand[1] - math.sin(angle) * reach)
    s.line([hand, head], s.color(), 1.2)
    s.disc(*head, s.uniform(3.5, 5), None, s.color(), 1.1)
    s.disc(s.uniform(10, 90), s.uniform(10, 80), s.uniform(1.3, 2.2), s.pick([(215, 235, 70)]))


def _weightlifting(s: Scene) -> None:
    s.indoors(s.pick([(110, 105, 110), (150, 125, 100), (70, 80, 100)]))
    s.polygon([(12, 84), (88, 84), (98, 98), (2, 98)], s.pick([(170, 130, 90), (90, 90, 100)]))
    x, height = s.uniform(40, 60), s.uniform(42, 55)
    feet = s.uniform(86, 94)
    overhead = s.uniform(0, 1) < 0.6
    s.person(x, feet, height, arms=s.uniform(0.9, 1.4) if overhead else s.uniform(-0.9, -0.2))
    bar = feet - height * (s.uniform(1.05, 1.2) if overhead else s.uniform(0.35, 0.8))
    half, tilt = s.uniform(24, 34), s.uniform(-4, 4)
    s.line([(x - half, bar - tilt), (x + half, bar + tilt)], (190, 195, 200), 1.4)
    plates = [s.color() for _ in range(int(s.draws.integers(1, 4)))]
    for i, plate in enumerate(plates):
        radius = s.uniform(6, 10) - 1.5 * i
        for side in (-1, 1):
            center = x + side * (half - 8 + 3.2 * i)
            s.box(center - 1.3, bar + side * tilt - radius, center + 1.3, bar + side * tilt + radius, plate)


def _waves(s: Scene) -> None:
    for _ in range(int(s.draws.integers(10, 40))):
        x, y, k = s.uniform(0, 100), s.uniform(s.horizon + 2, 100), s.uniform(2, 8)
        s.line([(x, y), (x + k / 2, y - 1), (x + k, y)], s.pick([(200, 220, 230), (90, 140, 175)]), 0.6)


SPORTS: dict[str, Callable[[Scene], None]] = {
    "archery": _archery,
    "basketball": _basketball,
    "bowling": _bowling,
    "cycling": _cycling,
    "sailing": _sailing,
    "skiing": _skiing,
    "soccer": _soccer,
    "swimming": _swimming,
    "tennis": _tennis,
    "weightlifting": _weightlifting,
}
