"""What a finished run's models make of given pictures: a folder with a grid and settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.chain.plan import recorded
from pipeline.errors import ConfigError
from pipeline.generation.config import Sampling
from pipeline.generation.run_stages import RunStages
from pipeline.manipulation.asked import Asked, dimensions_up_to
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.run_file import RunFile

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pipeline.manipulation.manipulator import Manipulator
    from pipeline.manipulation.pictures import Given
    from pipeline.shards.curated import CuratedDataset
    from pipeline.shards.embedding_files import EmbeddedDataset

BATCH = 16
"""Pictures worked on together; two make one row of an interpolation."""
SHOWN_PX = (96, 256)
"""Least and largest side of a picture in a grid."""


@dataclass(frozen=True)
class _Checked:
    """Everything that was asked for, read and found right."""

    asked: Asked
    given: "list[Given]"
    masks: "list[Image.Image]"
    pca: Mapping[str, Any]
    dimensions: tuple[int, ...]

    @property
    def bases(self) -> list[str]:
        """What each picture is, in words."""
        asked = self.asked.base
        return [each.caption if asked is None else asked for each in self.given]

    def rows(self) -> list[str]:
        """What is said above each row of the grid."""
        names = [each.name for each in self.given]
        if self.asked.way == "interpolation":
            pairs = zip(names[::2], names[1::2], strict=True)
            return [f"{first} to {second}" for first, second in pairs]
        if self.asked.way == "text_difference":
            return [
                f'{n}: from "{base}" to "{self.asked.text}"'
                for n, base in zip(names, self.bases, strict=True)
            ]
        if self.asked.text:
            return [f'{name}: "{self.asked.text}"' for name in names]
        return names


def manipulate_run(
    run: RunFile, asked: Asked, output: str, progress: Progress, *, dry_run: bool = False
) -> dict[str, Any]:
    """Make the pictures that are asked for, or check that they can be made.

    Args:
        run: The run file; its folder's index names the models, its section ``generate`` says how
            decoder and upsamplers are guided and sampled.
        asked: What to do, to which pictures.
        output: Local folder that does not exist yet: ``grid.png``, ``settings.json``,
            ``pictures/``.
        progress: Where to tell people how far it is.
        dry_run: Read and check only; no model is loaded.

    Raises:
        ConfigError: A stage is not finished, the folder exists, or a picture, key, mask, text or
            number is refused.
        CheckpointError: Weights are damaged or do not belong together.
    """
    from pipeline.interop.new_folder import check_new

    check_new(output)
    stages = RunStages.read(run.output_dir)
    work = _checked(asked, recorded(run))
    line = {"output": output, "way": asked.way, "pictures": [each.name for each in work.given]}
    return line if dry_run else {**line, **_made(run, stages, work, output, progress)}


def _checked(asked: Asked, known: Mapping[str, Result]) -> _Checked:
    from pipeline.generation.prompts import check
    from pipeline.manipulation.pictures import Given, read_file, read_mask, read_samples

    if texts := [text for text in (asked.text, asked.base) if text]:
        check(texts)
    pca, dimensions = _components(asked, known) if asked.way == "pca" else ({}, ())
    given = [Given(path, read_file(path), "") for path in asked.pictures]
    if asked.keys or asked.held_out:
        curated = _curated(known)
        held_out = _held_out(asked.held_out, curated, known) if asked.held_out else []
        given += read_samples(curated, [*asked.keys, *held_out])
    masks = asked.masks if len(asked.masks) == len(given) else asked.masks * len(given)
    read = [read_mask(path, each) for path, each in zip(masks, given, strict=bool(masks))]
    return _Checked(asked, given, read, pca, dimensions)


def _curated(known: Mapping[str, Result]) -> "CuratedDataset":
    from pipeline.shards.curated import CuratedDataset

    if "curate" not in known:
        raise ConfigError("this run has no finished data set to take samples from; use --picture")
    return CuratedDataset(known["curate"])


def _held_out(num: int, curated: "CuratedDataset", known: Mapping[str, Result]) -> list[str]:
    from pipeline.evaluation.held_out import held_out_keys
    from pipeline.shards.keep_list import keep_list

    if "select" not in known:
        raise ConfigError(f"--held-out {num}: this run has no finished select; name keys by --key")
    profiles = sorted(known["select"].content["profiles"])
    profile = "generative" if "generative" in profiles else profiles[0]
    chosen = held_out_keys(curated, keep_list(known["select"], profile), num)
    keys = [key for _, each in chosen for key in each]
    if len(keys) < num:
        raise ConfigError(f"--held-out {num}: profile {profile} holds out {len(keys)} samples")
    return keys


def _components(
    asked: Asked, known: Mapping[str, Result]
) -> tuple[Mapping[str, Any], tuple[int, ...]]:
    """The run's principal components, and how many of them to show one after the other."""
    embedded = _embedded(known)
    most = len(embedded.pca()["components"])
    dimensions = asked.dimensions or dimensions_up_to(most)
    if max(dimensions) > most:
        raise ConfigError(f"--dimensions {max(dimensions)}: this run's embeddings have {most}")
    return embedded.pca(), dimensions


def _embedded(known: Mapping[str, Result]) -> "EmbeddedDataset":
    from pipeline.shards.embedding_files import EmbeddedDataset

    if "embed" not in known:
        raise ConfigError("pca needs the components that stage embed computes; run it first")
    of_embed = known["embed"].content["clip_sha256"]
    if of_embed != known["clip"].content["weights"]["sha256"]:
        raise ConfigError(
            f"{known['embed'].uri} was embedded by another CLIP, {of_embed[:12]}…; embed again"
        )
    return EmbeddedDataset(known["embed"], _curated(known))


def _made(
    run: RunFile, stages: RunStages, work: _Checked, output: str, progress: Progress
) -> dict[str, Any]:
    from pipeline.generation.unclip import UnCLIP
    from pipeline.interop.new_folder import new_folder
    from pipeline.manipulation.manipulator import Manipulator

    sampling = Sampling() if run.generate is None else run.generate.sampling
    unclip = UnCLIP.from_stages(stages, sampling)
    manipulator = Manipulator(unclip, num_steps=work.asked.steps, seed=work.asked.seed)
    columns: dict[str, list[Image.Image]] = {}
    with progress.stage(work.asked.way, total=len(work.given), unit="pictures") as bar:
        for start in range(0, len(work.given), BATCH):
            part = slice(start, start + BATCH)
            for name, pictures in _drawn(manipulator, work, part).items():
                columns.setdefault(name, []).extend(pictures)
            bar.advance(len(work.given[part]))
    settings = {
        **asdict(work.asked),
        "run": run.output_dir,
        "models": dict(unclip.stack.fingerprints),
        "sampling": json.loads(unclip.sampling.model_dump_json()),
        "bases": work.bases,
        "rows": work.rows(),
        "columns": list(columns),
    }
    with new_folder(output) as folder:
        _write(folder, columns, settings)
    return {"grid_path": str(Path(output) / "grid.png"), "columns": list(columns)}


def _drawn(
    manipulator: "Manipulator", work: _Checked, part: slice
) -> "dict[str, list[Image.Image]]":
    """Final pictures of some rows, by column; the pictures as given come first."""
    import torch

    from pipeline.generation.pictures import to_images
    from pipeline.manipulation.pictures import square

    given, side = work.given[part], manipulator.source_px
    pictures = torch.stack([square(each.image, side) for each in given])
    indices = range(len(work.given))[part]
    if work.asked.way == "inpainting":
        made = _inpainted(manipulator, work, part, pictures)
    else:
        small = _small(manipulator, work, part, pictures)
        rows = indices[: len(next(iter(small.values())))]
        made = {name: manipulator.final(each, rows) for name, each in small.items()}
    final_px = manipulator.unclip.image_px
    shown = torch.nn.functional.adaptive_avg_pool2d(pictures, final_px)
    if work.asked.way == "interpolation":
        columns = {"first": shown[::2], **made, "second": shown[1::2]}
    else:
        columns = {"picture": shown, **made}
    return {name: to_images(each) for name, each in columns.items()}


def _small(
    manipulator: "Manipulator", work: _Checked, part: slice, pictures: "Tensor"
) -> "dict[str, Tensor]":
    """Pictures at the decoder's size, by column."""
    asked, indices = work.asked, range(len(work.given))[part]
    fresh = asked.noise == "random"
    if asked.way == "interpolation":
        first, second = (manipulator.encode(pictures[k::2], indices[k::2]) for k in (0, 1))
        return manipulator.interpolation(first, second, asked.thetas, fixed_noise=fresh)
    latents = manipulator.encode(pictures, indices)
    if asked.way == "text_difference":
        texts = [asked.text] * len(indices)
        return manipulator.text_difference(latents, work.bases[part], texts, asked.thetas)
    if asked.way == "pca":
        return manipulator.principal_components(latents, work.pca, work.dimensions)
    again = {"reconstruction": manipulator.reconstruction(latents)}
    if asked.way == "reconstruction":
        return again
    return again | manipulator.variations(latents, asked.number, asked.eta, fresh=fresh)


def _inpainted(
    manipulator: "Manipulator", work: _Checked, part: slice, pictures: "Tensor"
) -> "dict[str, Tensor]":
    import torch

    from pipeline.manipulation.pictures import known_square

    def known(side_px: int) -> "Tensor":
        return torch.stack([known_square(mask, side_px) for mask in work.masks[part]])

    texts = [work.asked.text] * len(pictures)
    side, final_px = manipulator.source_px, manipulator.unclip.image_px
    made = manipulator.inpainting(
        pictures, known(side), texts, range(len(work.given))[part], num_visits=work.asked.visits
    )
    shown = torch.nn.functional.adaptive_avg_pool2d(pictures, final_px)
    return {"known": torch.where(known(final_px), shown, 0.0), "inpainting": made}


def _write(
    folder: Path, columns: "Mapping[str, Sequence[Image.Image]]", settings: Mapping[str, Any]
) -> None:
    import numpy as np

    from pipeline.evaluation.sheets import Column, sheet
    from pipeline.generation.pictures import png_bytes

    first = next(iter(columns.values()))[0]
    side = min(max(first.width, SHOWN_PX[0]), SHOWN_PX[1])
    shown = [
        Column(name, np.stack([np.asarray(_at_most(each, side)) for each in pictures]))
        for name, pictures in columns.items()
    ]
    rows = settings["rows"]
    (folder / "grid.png").write_bytes(sheet(shown, len(rows), side, rows))
    (folder / "pictures").mkdir()
    told = {"Manipulation": settings["way"], "Seed": str(settings["seed"])}
    told |= {f"Model {name}": sha256[:16] for name, sha256 in settings["models"].items()}
    for place, (name, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            file = f"{row:03d}-{place:02d}-{name.replace(' ', '-')}.png"
            texts = {**told, "Picture": rows[row], "Column": name}
            (folder / "pictures" / file).write_bytes(png_bytes(picture, texts))
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "settings.json").write_text(text + "\n", encoding="utf-8")


def _at_most(picture: "Image.Image", side_px: int) -> "Image.Image":
    """Shrunk where it is larger; smaller ones are enlarged by the grid."""
    return picture.reduce(picture.width // side_px) if picture.width >= 2 * side_px else picture
