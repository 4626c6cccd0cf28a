"""What a run's CLIP knows of other data sets: ``zero_shot.json`` beside the run's stages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline import results, storage
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.run_file import RunFile

if TYPE_CHECKING:
    from pipeline.models.clip import ClipModel

TABLE = "zero_shot.json"
BATCH_SIZE = 64


def check_zero_shot(
    run: RunFile, paths: Sequence[str], progress: Progress, *, dry_run: bool = False
) -> dict[str, Any]:
    """Measure the run's CLIP, or that of its section ``open_clip``, on labelled data sets.

    Args:
        run: The run file.
        paths: Folders as ``evaluation.labelled_data`` describes them.
        progress: Where to tell people how far it is.
        dry_run: Open the data sets only.

    Returns:
        ``zero_shot_path`` and ``metrics`` (``value, low95, high95, num`` by name).

    Raises:
        ConfigError: There is no CLIP, or a data set has neither layout.
        DataError: A data set is damaged.
    """
    from pipeline.evaluation.labelled_data import open_labelled

    opened = [open_labelled(path) for path in paths]
    if dry_run:
        return {"zero_shot": {each.name: len(each.classes) for each in opened}}
    from pipeline.evaluation.zero_shot_check import check_clip, on_device

    name, clip = _clip(run)
    clip = on_device(clip)
    found = {
        metric: estimate.as_dict()
        for data in opened
        for metric, estimate in check_clip(clip, data, name, BATCH_SIZE, progress).items()
    }
    uri = storage.join(run.output_dir, TABLE)
    before = storage.read_json(uri) if storage.exists(uri) else {}
    storage.write_json(uri, {**before, **found})
    return {"zero_shot_path": uri, "metrics": found}


def _clip(run: RunFile) -> "tuple[str, ClipModel]":
    has_index = storage.exists(storage.join(run.output_dir, results.INDEX))
    places = results.stage_places(run.output_dir) if has_index else {}
    if "clip" in places:
        import torch

        from pipeline.generation.weights import load_clip

        name = "own_clip" if run.open_clip is None else run.open_clip.model
        return name, load_clip(places["clip"], torch.device("cpu"))
    if run.open_clip is not None:
        from pipeline.interop.open_clip import load_open_clip

        weights = storage.local_path(run.open_clip.weights_path)
        return run.open_clip.model, load_open_clip(run.open_clip.model, weights)
    raise ConfigError(
        f"{run.output_dir} has no finished clip; run python -m jobs.train --stage clip first, or "
        "name weights in a section open_clip"
    )
