"""Whose pictures are compared: a run's, a stage's, or a folder's."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.generated import FINAL, Generated, read_generated
from pipeline.results import INDEX, Result, read_result, stage_places

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class System:
    """The pictures of one system, by name."""

    uri: str
    generated: Result | None
    """The finished stage; None for a plain folder."""
    captions: Mapping[str, str | None]
    """Caption of each picture, by its name, in order."""

    def files(self, names: Collection[str]) -> dict[str, bytes]:
        """The encoded pictures of these names; all are read in one go."""
        if self.generated is not None:
            found = _final_pictures(self.generated)
            return {each.key: each.png for each in found if each.key in names}
        return {path.name: path.read_bytes() for path in map(Path(self.uri).joinpath, names)}

    def opened(self, name: str, content: bytes) -> Image.Image:
        """A picture as RGB.

        Raises:
            DataError: It cannot be decoded.
        """
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(
                f"{self.uri}: {name} is no readable picture ({error}); remove or replace it"
            ) from error


@dataclass(frozen=True)
class Pair:
    """A picture of each system that belong together."""

    first: str
    second: str
    caption: str | None


def read_system(uri: str) -> System:
    """What is in a folder.

    Raises:
        ConfigError: There are no pictures.
    """
    generated = _generated(uri)
    if generated is not None:
        captions = {each.key: each.prompt for each in _final_pictures(generated)}
    else:
        captions = {path.name: _caption(path) for path in _picture_files(uri)}
    if not captions:
        raise ConfigError(
            f"{uri}: neither a run with generated pictures nor a folder of "
            f"{', '.join(EXTENSIONS)} files; name one that holds pictures"
        )
    return System(uri, generated, captions)


def paired(first: System, second: System) -> list[Pair]:
    """Pictures that belong together: of two folders by file name without ending, else by caption.

    Where a caption has several pictures, the n-th of one system belongs to the n-th of the other.

    Raises:
        ConfigError: No two belong together, or files of one name have different captions.
    """
    by_name = first.generated is None and second.generated is None
    ours, theirs = (_keyed(system, by_name=by_name) for system in (first, second))
    pairs = [
        Pair(name, theirs[key], _common_caption(first, second, name, theirs[key]))
        for key, name in ours.items()
        if key in theirs
    ]
    if not pairs:
        rule = "file name" if by_name else "caption"
        raise ConfigError(
            f"{first.uri} and {second.uri} share no {rule}; generate both from the same prompts"
        )
    return pairs


def _keyed(system: System, *, by_name: bool) -> dict[tuple[str, int], str]:
    seen: Counter[str] = Counter()
    keyed = {}
    for name, caption in system.captions.items():
        shared = Path(name).stem if by_name else caption
        if shared is not None:
            keyed[shared, seen[shared]] = name
            seen[shared] += 1
    return keyed


def _common_caption(first: System, second: System, a: str, b: str) -> str | None:
    found = {first.captions[a], second.captions[b]} - {None}
    if len(found) > 1:
        raise ConfigError(
            f"{first.uri}: the caption of {a} is {first.captions[a]!r}, in {second.uri} it is "
            f"{second.captions[b]!r}; pictures of one name need one caption"
        )
    return found.pop() if found else None


def _generated(uri: str) -> Result | None:
    """The finished stage ``generate`` that a folder is, or whose run it is."""
    if storage.exists(storage.join(uri, INDEX)):
        places = stage_places(uri)
        if "generate" not in places:
            raise ConfigError(f"{uri} has no finished stage generate: run python -m jobs.generate")
        uri = places["generate"]
    result = read_result(uri)
    if result is not None and result.stage != "generate":
        raise ConfigError(f"{uri} is a stage {result.stage}; name one of the stage generate")
    return result


def _final_pictures(generated: Result) -> Iterator[Generated]:
    for entry in generated.content["shards"]:
        yield from (each for each in read_generated(generated, entry) if each.kind == FINAL)


def _picture_files(uri: str) -> list[Path]:
    folder = storage.local_path(uri)
    if not folder.is_dir():
        raise ConfigError(f"{uri}: no such folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)


def _caption(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    return (text.read_text(encoding="utf-8").strip() or None) if text.exists() else None
