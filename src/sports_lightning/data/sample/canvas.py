"""The canvas of the sample dataset: shapes, backgrounds and people in random colors."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # height and width in pixels
_SCALE = 2  # drawn larger and shrunk, for smooth edges
GREENS = [(70, 130, 60), (95, 150, 70), (60, 110, 75), (120, 140, 70)]
SKINS = [(235, 200, 170), (200, 150, 115), (150, 100, 70), (95, 65, 50)]

Color = tuple[int, int, int]


class Scene:
    """A canvas of 100 × 100 units, with the elements that several sports share."""

    def __init__(self, draws: np.random.Generator) -> None:
        self.draws = draws
        self.image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE))
        self.pen = ImageDraw.Draw(self.image)
        self.horizon = self.uniform(25, 50)

    def uniform(self, low: float, high: float) -> float:
        """A random number between `low` and `high`."""
        return float(self.draws.uniform(low, high))

    def color(self) -> Color:
        """A random color."""
        red, green, blue = self.draws.integers(20, 245, 3).tolist()
        return red, green, blue

    def near(self, color: Color, spread: int = 25) -> Color:
        """A random color within `spread` of `color` in each channel."""
        red, green, blue = (np.array(color) + self.draws.integers(-spread, spread + 1, 3)).clip(0, 255).tolist()
        return red, green, blue

    def pick(self, options: list[Color]) -> Color:
        """A random color near one of `options`."""
        return self.near(options[int(self.draws.integers(len(options)))])

    def _px(self, *points: float) -> list[float]:
        return [value * SIZE * _SCALE / 100 for value in points]

    def polygon(self, points: list[tuple[float, float]], fill: Color, outline: Color | None = None) -> None:
        """Draw a filled polygon."""
        self.pen.polygon(self._px(*(v for point in points for v in point)), fill, outline)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color) -> None:
        """Draw a filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points: list[tuple[float, float]], fill: Color, width: float = 1) -> None:
        """Draw a line through `points`."""
        self.pen.line(
            self._px(*(v for point in points for v in point)), fill, max(1, round(self._px(width)[0])), "curve"
        )

    def disc(
        self, x: float, y: float, radius: float, fill: Color | None, outline: Color | None = None, width: float = 0
    ) -> None:
        """Draw a circle."""
        self.pen.ellipse(
            self._px(x - radius, y - radius, x + radius, y + radius), fill, outline, round(self._px(width)[0])
        )

    def outdoors(self, ground: Color) -> None:
        """Draw sky, hills and a ground."""
        sky = self.pick([(150, 195, 235), (200, 210, 220), (240, 190, 150), (110, 140, 190)])
        self.box(0, 0, 100, 100, sky)
        if self.uniform(0, 1) < 0.6:
            hills, shade = [(0.0, self.horizon)], self.pick([*GREENS, (130, 130, 145)])
            hills += [(x, self.horizon - self.uniform(2, 16)) for x in range(0, 101, 20)]
            self.polygon([*hills, (100, self.horizon)], shade)
        self.box(0, self.horizon, 100, 100, ground)

    def indoors(self, floor: Color) -> None:
        """Draw a wall, spectators and a floor."""
        self.box(0, 0, 100, 100, self.near(self.color(), 10))
        for _ in range(int(self.draws.integers(0, 40))):
            self.disc(self.uniform(0, 100), self.uniform(3, self.horizon), self.uniform(0.8, 2.2), self.pick(SKINS))
        self.box(0, self.horizon, 100, 100, floor)

    def person(
        self, x: float, feet: float, height: float, arms: float | None = None, lean: float = 0
    ) -> tuple[float, float]:
        """Draw a person standing at (x, feet) and return the position of the right hand."""
        shirt, legs, skin = self.color(), self.color(), self.pick(SKINS)
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
        """Draw up to `most` people."""
        for _ in range(int(self.draws.integers(0, most + 1))):
            self.person(self.uniform(5, 95), self.uniform(self.horizon + 8, 95), self.uniform(14, 26))

    def finish(self) -> Image.Image:
        """The image with random flip, rotation, blur, brightness and noise; RGB, SIZE × SIZE."""
        image = self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        if self.uniform(0, 1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(self.uniform(-7, 7), Image.Resampling.BILINEAR, fillcolor=self.color())
        if self.uniform(0, 1) < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(self.uniform(0.3, 1.0)))
        pixels = np.asarray(image, dtype=np.float32) * self.uniform(0.65, 1.2) + self.uniform(-15, 15)
        pixels += self.draws.normal(0, self.uniform(2, 9), pixels.shape)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
