"""What is wanted of pictures, read from the command line's words; imports nothing heavy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.errors import ConfigError

Way = Literal[
    "reconstruction", "variations", "interpolation", "text_difference", "pca", "inpainting"
]
WAYS: tuple[Way, ...] = get_args(Way)
OPTIONS: Mapping[Way, tuple[str, ...]] = {
    "reconstruction": (),
    "variations": ("number", "eta", "noise"),
    "interpolation": ("number", "noise"),
    "text_difference": ("number", "text", "base", "theta"),
    "pca": ("dimensions",),
    "inpainting": ("text", "mask", "visits"),
}
"""Options that belong to each way alone; every other option belongs to all."""
MAX_PICTURES = 256


@dataclass(frozen=True)
class Asked:
    """One manipulation of some pictures."""

    way: Way
    pictures: tuple[str, ...]
    """Files."""
    keys: tuple[str, ...]
    """Samples of the run."""
    held_out: int
    """The first held-out samples of the run."""
    seed: int
    steps: int
    """Denoising steps of an inversion and of every way back."""
    number: int
    """Variations; or pictures from end to end of an interpolation or a text difference."""
    eta: float
    noise: Literal["inverted", "random"]
    """Where drawing starts: from the pictures' own x_T, or from one that is drawn."""
    text: str
    base: str | None
    """What each picture is; None for a sample's own caption, and no words for a file."""
    theta: float
    """Where a text difference ends."""
    dimensions: tuple[int, ...]
    """Principal components; none for powers of two up to all."""
    masks: tuple[str, ...]
    visits: int
    """How often each of the decoder's moves is made in inpainting."""

    @property
    def thetas(self) -> tuple[float, ...]:
        """Shares of the way, evenly, both ends with them."""
        end = self.theta if self.way == "text_difference" else 1.0
        return tuple(end * place / (self.number - 1) for place in range(self.number))


def dimensions_up_to(most: int) -> tuple[int, ...]:
    """Powers of two, and all dimensions."""
    powers = (1 << place for place in range(most.bit_length()))
    return (*(power for power in powers if power < most), most)


def from_options(options: Mapping[str, Any]) -> Asked:
    """The manipulation that a command line asks for.

    Args:
        options: The command line's options by name; those of ``OPTIONS`` are None where not given.

    Raises:
        ConfigError: An option is missing, out of its range, or belongs to another way.
    """
    way: Way = options["way"]
    for name in {each for names in OPTIONS.values() for each in names} - {*OPTIONS[way]}:
        if options[name] is not None:
            owners = " and ".join(each for each, names in OPTIONS.items() if name in names)
            raise ConfigError(f"--{name} belongs to {owners}, not to {way}; leave it out")
    _check_ranges(options)
    asked = Asked(
        way=way,
        pictures=tuple(options["picture"]),
        keys=tuple(options["key"]),
        held_out=options["held_out"],
        seed=options["seed"],
        steps=options["steps"],
        number=options["number"] or 6,
        eta=1.0 if options["eta"] is None else options["eta"],
        noise=options["noise"] or "inverted",
        text=options["text"] or "",
        base=options["base"],
        theta=0.5 if options["theta"] is None else options["theta"],
        dimensions=tuple(options["dimensions"] or ()),
        masks=tuple(options["mask"] or ()),
        visits=options["visits"] or 5,
    )
    _check(asked)
    return asked


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "number": (lambda value: 2 <= value <= 64, "2 to 64"),
    "eta": (lambda value: 0 <= value <= 1, "0 to 1"),
    "theta": (lambda value: 0 < value <= 1, "above 0 and at most 1; the paper goes to 0.25 to 0.5"),
    "visits": (lambda value: 1 <= value <= 100, "1 to 100"),
    "seed": (lambda value: value >= 0, "0 or more"),
    "steps": (lambda value: value >= 2, "2 or more"),
    "held_out": (lambda value: value >= 0, "0 or more"),
}


def _check_ranges(options: Mapping[str, Any]) -> None:
    for name, (holds, rule) in _RANGES.items():
        value = options[name]
        if value is not None and not (math.isfinite(value) and holds(value)):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: expected {rule}")
    for number in options["dimensions"] or ():
        if number < 1:
            raise ConfigError(f"--dimensions {number}: a picture needs at least 1 dimension")


def _check(asked: Asked) -> None:
    num = len(asked.pictures) + len(asked.keys) + asked.held_out
    if not 0 < num <= MAX_PICTURES:
        raise ConfigError(
            f"{num} pictures were given, accepted are 1 to {MAX_PICTURES}; give them as --picture "
            "FILE, --key KEY or --held-out 4"
        )
    if asked.way == "interpolation" and num % 2:
        raise ConfigError(f"interpolation takes pictures two by two, {num} were given; add one")
    if asked.way == "variations" and asked.noise == "inverted" and asked.eta == 0:
        raise ConfigError(
            "--eta 0 from a picture's own noise is its reconstruction; give an eta above 0, or "
            "--noise random"
        )
    if asked.way in ("interpolation", "text_difference") and asked.thetas[1] < 0.01:
        raise ConfigError(
            f"--number {asked.number}: steps of {asked.thetas[1]:.4f} on the way are below 0.01; "
            "take fewer"
        )
    if asked.way == "text_difference" and not asked.text:
        raise ConfigError("text_difference needs --text: what the pictures shall become")
    if asked.way == "inpainting" and len(asked.masks) not in (1, num):
        raise ConfigError(
            f"inpainting takes one --mask for all pictures or one for each of {num}, in their "
            f"order; {len(asked.masks)} were given"
        )
