"""Ten sports as drawn scenes, for the sample data set.

A scene has its sport's field and equipment, but colours, light, place, size, people and clutter are drawn at random,
and sports share fields, people and balls, so that no single pixel or colour gives the class away.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # pixels a side
_SCALE = 2  # drawn larger and shrunk, for smooth edges
_GREENS = [(70, 130, 60), (95, 150, 70), (60, 110, 75), (120, 140, 70)]
_SKINS = [(235, 200, 170), (200, 150, 115), (150, 100, 70), (95, 65, 50)]

Colour = tuple[int, int, int]


def draw_scene(sport: str, draws: np.random.Generator) -> Image.Image:
    """One image of `sport` (a key of SPORTS), RGB, SIZE × SIZE."""
    scene = _Scene(draws)
    SPORTS[sport](scene)
    return scene.finish()


class _Scene:
    """A canvas of 100 × 100 units with the things that sports are made of."""

    def __init__(self, draws: np.random.Generator) -> None:
        self.draws = draws
        self.image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE))
        self.pen = ImageDraw.Draw(self.image)
        self.horizon = self.uniform(25, 50)

    def uniform(self, low: float, high: float) -> float:
        return float(self.draws.uniform(low, high))

    def colour(self) -> Colour:
        red, green, blue = self.draws.integers(20, 245, 3).tolist()
        return red, green, blue

    def near(self, colour: Colour, spread: int = 25) -> Colour:
        red, green, blue = (np.array(colour) + self.draws.integers(-spread, spread + 1, 3)).clip(0, 255).tolist()
        return red, green, blue

    def pick(self, options: list[Colour]) -> Colour:
        return self.near(options[int(self.draws.integers(len(options)))])

    def _px(self, *points: float) -> list[float]:
        return [value * SIZE * _SCALE / 100 for value in points]

    def polygon(self, points: list[tuple[float, float]], fill: Colour, outline: Colour | None = None) -> None:
        self.pen.polygon(self._px(*(v for point in points for v in point)), fill, outline)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float = 1) -> None:
        self.pen.line(
            self._px(*(v for point in points for v in point)), fill, max(1, round(self._px(width)[0])), "curve"
        )

    def disc(
        self, x: float, y: float, radius: float, fill: Colour | None, outline: Colour | None = None, width: float = 0
    ) -> None:
        self.pen.ellipse(
            self._px(x - radius, y - radius, x + radius, y + radius), fill, outline, round(self._px(width)[0])
        )

    def outdoors(self, ground: Colour) -> None:
        sky = self.pick([(150, 195, 235), (200, 210, 220), (240, 190, 150), (110, 140, 190)])
        self.box(0, 0, 100, 100, sky)
        if self.uniform(0, 1) < 0.6:
            hills, shade = [(0.0, self.horizon)], self.pick([*_GREENS, (130, 130, 145)])
            hills += [(x, self.horizon - self.uniform(2, 16)) for x in range(0, 101, 20)]
            self.polygon([*hills, (100, self.horizon)], shade)
        self.box(0, self.horizon, 100, 100, ground)

    def indoors(self, floor: Colour) -> None:
        self.box(0, 0, 100, 100, self.near(self.colour(), 10))
        for _ in range(int(self.draws.integers(0, 40))):
            self.disc(self.uniform(0, 100), self.uniform(3, self.horizon), self.uniform(0.8, 2.2), self.pick(_SKINS))
        self.box(0, self.horizon, 100, 100, floor)

    def person(
        self, x: float, feet: float, height: float, arms: float | None = None, lean: float = 0
    ) -> tuple[float, float]:
        """A metric standing at (x, feet); returns where its right hand is."""
        shirt, legs, skin = self.colour(), self.colour(), self.pick(_SKINS)
        hip, neck = (x + lean * 0.4, feet - height * 0.45), (x + lean, feet - height * 0.8)
        stride = height * self.uniform(0.05, 0.22)
        for foot in (x - stride, x + stride):
            self.line([hip, (foot, feet)], legs, height * 0.09)
        self.line([hip, neck], shirt, height * 0.17)
        angle = self.uniform(-1.2, 1.2) if arms is None else arms
        hand = (neck[0] + math.cos(angle) * height * 0.32, neck[1] + 0.05 * height - math.sin(angle) * height * 0.32)
        self.line([(neck[0], neck[1] + 0.05 * height), hand], skin, height * 0.06)
        other = self.uniform(2.0, 4.0)
        self.line(
            [neck, (neck[0] + math.cos(other) * height * 0.3, neck[1] - math.sin(other) * height * 0.3)],
            skin,
            height * 0.06,
        )
        self.disc(neck[0], neck[1] - height * 0.09, height * 0.09, skin)
        return hand

    def people(self, most: int) -> None:
        for _ in range(int(self.draws.integers(0, most + 1))):
            self.person(self.uniform(5, 95), self.uniform(self.horizon + 8, 95), self.uniform(14, 26))

    def finish(self) -> Image.Image:
        image = self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        if self.uniform(0, 1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(self.uniform(-7, 7), Image.Resampling.BILINEAR, fillcolor=self.colour())
        if self.uniform(0, 1) < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(self.uniform(0.3, 1.0)))
        pixels = np.asarray(image, dtype=np.float32) * self.uniform(0.65, 1.2) + self.uniform(-15, 15)
        pixels += self.draws.normal(0, self.uniform(2, 9), pixels.shape)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _archery(s: _Scene) -> None:
    s.outdoors(s.pick(_GREENS))
    x, y, radius = s.uniform(55, 85), s.uniform(40, 65), s.uniform(8, 16)
    s.line([(x - radius, 92), (x, y)], s.pick([(120, 85, 50)]), 2)
    s.line([(x + radius, 92), (x, y)], s.pick([(120, 85, 50)]), 2)
    for ring, colour in enumerate([(240, 240, 235), (40, 40, 45), (70, 150, 210), (215, 60, 55), (245, 215, 70)]):
        s.disc(x, y, radius * (1 - ring * 0.2), s.near(colour, 15))
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
        s.colour(),
        1.5,
    )
    s.line([(hand[0] - 9, hand[1]), (hand[0] + 5, hand[1])], (60, 50, 40), 0.8)


def _basketball(s: _Scene) -> None:
    s.indoors(s.pick([(205, 150, 95), (180, 120, 75), (190, 165, 130)]))
    x, y = s.uniform(55, 85), s.uniform(12, 28)
    s.line([(x + 10, 90), (x + 10, y)], s.colour(), 2)
    s.box(x - 13, y - 9, x + 13, y + 8, s.pick([(240, 240, 240), (210, 225, 235)]))
    rim = s.pick([(225, 95, 40)])
    s.line([(x - 6, y + 5), (x + 6, y + 5)], rim, 1.6)
    for strand in range(-6, 7, 3):
        s.line([(x + strand, y + 5), (x + strand * 0.6, y + 14)], (235, 235, 235), 0.7)
    s.people(3)
    hand = s.person(s.uniform(15, 50), s.uniform(80, 95), s.uniform(35, 52), arms=s.uniform(0.3, 1.4))
    s.disc(hand[0], hand[1] - 4, s.uniform(3.5, 5), s.pick([(220, 120, 50), (190, 90, 45)]), (60, 35, 25), 0.6)


def _bowling(s: _Scene) -> None:
    s.indoors(s.near(s.colour(), 10))
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
    s.disc(middle + s.uniform(-12, 12), s.uniform(65, 90), s.uniform(4, 8), s.colour())
    if s.uniform(0, 1) < 0.6:
        s.person(s.uniform(10, 90), 97, s.uniform(38, 55))


def _cycling(s: _Scene) -> None:
    s.outdoors(s.pick([*_GREENS, (185, 165, 120)]))
    s.box(0, s.uniform(62, 72), 100, 100, s.pick([(120, 120, 125), (90, 90, 95), (175, 150, 115)]))
    for _ in range(int(s.draws.integers(1, 3))):
        x, y, r = s.uniform(25, 70), s.uniform(72, 88), s.uniform(7, 11)
        frame = s.colour()
        for wheel in (x - 1.3 * r, x + 1.3 * r):
            s.disc(wheel, y, r, None, (30, 30, 30), 1.3)
        seat, bar, crank = (x - 0.6 * r, y - 1.4 * r), (x + 0.9 * r, y - 1.5 * r), (x, y)
        for a, b in ((seat, crank), (seat, bar), (crank, bar), (crank, (x - 1.3 * r, y)), (bar, (x + 1.3 * r, y))):
            s.line([a, b], frame, 1.3)
        shoulder = (x + 0.5 * r, y - 3 * r)
        s.line([seat, (x + 0.6 * r, y - 1.0 * r), crank], s.colour(), r * 0.3)
        s.line([seat, shoulder], s.colour(), r * 0.6)
        s.line([shoulder, bar], s.pick(_SKINS), r * 0.25)
        s.disc(shoulder[0] + 0.4 * r, shoulder[1] - 0.4 * r, r * 0.42, s.colour())


def _sailing(s: _Scene) -> None:
    s.outdoors(s.pick([(50, 105, 150), (70, 130, 140), (40, 80, 120)]))
    _waves(s)
    for _ in range(int(s.draws.integers(1, 4))):
        x, y, k = s.uniform(20, 80), s.uniform(s.horizon + 12, 85), s.uniform(0.5, 1.4)
        tilt = s.uniform(-6, 6)
        top = (x + tilt * k, y - 42 * k)
        s.polygon(
            [(x - 12 * k, y - 3 * k), (x + 13 * k, y - 3 * k), (x + 8 * k, y + 3 * k), (x - 9 * k, y + 3 * k)],
            s.colour(),
        )
        s.line([(x, y - 3 * k), top], (110, 90, 70), 1)
        s.polygon([(x - 1, y - 6 * k), top, (x - 15 * k, y - 6 * k)], s.pick([(245, 245, 240), s.colour()]))
        s.polygon([(x + 1, y - 6 * k), top, (x + 10 * k, y - 6 * k)], s.pick([(240, 235, 225), s.colour()]))


def _skiing(s: _Scene) -> None:
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
        s.line([(x - 15, feet + shift / 2 - 15 * slope), (x + 17, feet + shift / 2 + 17 * slope)], s.colour(), 1.5)
    s.line([hand, (hand[0] + s.uniform(-10, 4), feet + 3)], (50, 50, 55), 0.9)


def _soccer(s: _Scene) -> None:
    s.outdoors(s.pick(_GREENS))
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


def _swimming(s: _Scene) -> None:
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
        skin = s.pick(_SKINS)
        s.line([(x, y), (x + 3.5 * r, y + 0.4 * r)], skin, r * 1.2)
        s.line([(x + r, y), (x - r, y - 2.5 * r), (x - 3 * r, y - r)], skin, r * 0.5)
        s.disc(x, y, r, s.colour())
        for _ in range(6):
            s.disc(x + s.uniform(-4, 5) * r, y + s.uniform(-0.5, 1.5) * r, r * 0.3, (240, 248, 250))


def _tennis(s: _Scene) -> None:
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
    s.line([hand, head], s.colour(), 1.2)
    s.disc(*head, s.uniform(3.5, 5), None, s.colour(), 1.1)
    s.disc(s.uniform(10, 90), s.uniform(10, 80), s.uniform(1.3, 2.2), s.pick([(215, 235, 70)]))


def _weightlifting(s: _Scene) -> None:
    s.indoors(s.pick([(110, 105, 110), (150, 125, 100), (70, 80, 100)]))
    s.polygon([(12, 84), (88, 84), (98, 98), (2, 98)], s.pick([(170, 130, 90), (90, 90, 100)]))
    x, height = s.uniform(40, 60), s.uniform(42, 55)
    feet = s.uniform(86, 94)
    overhead = s.uniform(0, 1) < 0.6
    s.person(x, feet, height, arms=s.uniform(0.9, 1.4) if overhead else s.uniform(-0.9, -0.2))
    bar = feet - height * (s.uniform(1.05, 1.2) if overhead else s.uniform(0.35, 0.8))
    half, tilt = s.uniform(24, 34), s.uniform(-4, 4)
    s.line([(x - half, bar - tilt), (x + half, bar + tilt)], (190, 195, 200), 1.4)
    plates = [s.colour() for _ in range(int(s.draws.integers(1, 4)))]
    for i, plate in enumerate(plates):
        radius = s.uniform(6, 10) - 1.5 * i
        for side in (-1, 1):
            centre = x + side * (half - 8 + 3.2 * i)
            s.box(centre - 1.3, bar + side * tilt - radius, centre + 1.3, bar + side * tilt + radius, plate)


def _waves(s: _Scene) -> None:
    for _ in range(int(s.draws.integers(10, 40))):
        x, y, k = s.uniform(0, 100), s.uniform(s.horizon + 2, 100), s.uniform(2, 8)
        s.line([(x, y), (x + k / 2, y - 1), (x + k, y)], s.pick([(200, 220, 230), (90, 140, 175)]), 0.6)


SPORTS: dict[str, Callable[[_Scene], None]] = {
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
