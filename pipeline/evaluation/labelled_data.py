"""Data sets that a CLIP is asked about: folders of classes, and WebDatasets as CLIP_benchmark's.

A folder of classes holds one folder of pictures per class; ``classnames.txt`` beside them may name
the classes, a line each, in the order of the sorted folders. A WebDataset holds tars (in ``test/``
or at the top) whose samples are a picture and ``cls`` (number of the class, with
``classnames.txt``) or ``txt`` (captions, a line each). ``zeroshot_classification_templates.txt``
holds prompts with one ``{c}`` (or ``{}``), a line each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, DataError
from pipeline.models.zero_shot import TEMPLATES
from pipeline.shards.tars import PICTURES, content, opened

CLASS_NAMES, TEMPLATE_FILE = "classnames.txt", "zeroshot_classification_templates.txt"
LABEL, CAPTIONS = "cls", "txt"
RESTORE = "fetch this file again"


@dataclass(frozen=True)
class Labelled:
    """A picture and what is known of it."""

    name: str
    picture: bytes
    label: int | None = None
    """Number of its class."""
    file: int = 0
    """Number of its file in the data set."""
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledData:
    """A data set, opened but not read."""

    name: str
    classes: tuple[str, ...]
    """Names as they stand in a prompt; none where pictures have captions."""
    templates: tuple[str, ...]
    files: tuple[tuple[Path, int | None], ...]
    """Tars; or pictures with the number of their class."""

    def samples(self) -> Iterator[Labelled]:
        """All samples in the order of the files.

        Raises:
            DataError: A tar is damaged, or a sample has no picture, or a label that is no class.
        """
        for file, (path, label) in enumerate(self.files):
            if label is not None:
                yield Labelled(str(path), path.read_bytes(), label, file)
            else:
                yield from (self._of_tar(*found, file) for found in _read_tar(path))

    def _of_tar(self, name: str, members: dict[str, bytes], file: int) -> Labelled:
        picture = next((members[each] for each in members if each in PICTURES), None)
        if picture is None:
            raise DataError(f"{name} has no picture, only {', '.join(sorted(members))}")
        if not self.classes:
            lines = members.get(CAPTIONS, b"").decode("utf-8", "replace").splitlines()
            captions = tuple(line.strip() for line in lines if line.strip())
            if not captions:
                raise DataError(f"{name} has no caption in .{CAPTIONS}; {RESTORE}")
            return Labelled(name, picture, None, file, captions)
        text = members.get(LABEL, b"").decode("utf-8", "replace").strip()
        if not text.isdigit() or int(text) >= len(self.classes):
            raise DataError(
                f"{name}.{LABEL} holds {text[:20]!r}, {CLASS_NAMES} has {len(self.classes)} "
                "classes, counted from 0; the two do not belong together"
            )
        return Labelled(name, picture, int(text), file)


def open_labelled(path: str) -> LabelledData:
    """A data set of either layout.

    Raises:
        ConfigError: No folder, or one of neither layout.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigError(f"{path}: no such folder; name a folder of classes or of tars")
    classes, templates = _lines(root / CLASS_NAMES), _lines(root / TEMPLATE_FILE)
    templates = [line.replace("{c}", "{}") for line in templates] or list(TEMPLATES)
    folder = root / "test" if any(root.glob("test/*.tar")) else root
    tars = sorted(folder.glob("*.tar"), key=lambda tar: (len(tar.name), tar.name))
    if tars:
        return LabelledData(
            root.name, tuple(classes), tuple(templates), tuple((tar, None) for tar in tars)
        )
    folders = sorted(each for each in root.iterdir() if each.is_dir())
    pictures = tuple(
        (file, label)
        for label, each in enumerate(folders)
        for file in sorted(each.rglob("*"))
        if file.suffix.lower().lstrip(".") in PICTURES
    )
    if len(folders) < 2 or not pictures:
        raise ConfigError(
            f"{path} holds no tars and {len(folders)} folders with {len(pictures)} pictures: "
            "expected a folder of pictures per class, or tars in CLIP_benchmark's layout"
        )
    names = classes or [each.name.replace("_", " ") for each in folders]
    if len(names) != len(folders):
        raise ConfigError(
            f"{root / CLASS_NAMES} names {len(names)} classes, {path} has {len(folders)} folders; "
            "one line per folder, in their sorted order"
        )
    return LabelledData(root.name, tuple(names), tuple(templates), pictures)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_tar(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Name and members by extension of each sample; its members stand beside each other."""
    key, members = "", {}
    with path.open("rb") as file, opened(file, str(path), RESTORE) as tar:
        for info in tar:
            if not info.isfile():
                continue
            stem, _, extension = info.name.rpartition("/")[2].partition(".")
            if stem != key and members:
                yield f"{path}: {key}", members
                members = {}
            key, members[extension.lower()] = stem, content(tar, info, str(path))
    if members:
        yield f"{path}: {key}", members
