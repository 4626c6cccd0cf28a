"""What a training reads: keep-lists of this run and of others."""

from collections.abc import Mapping

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.results import Result, read_result, stage_places
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import KeepList, keep_list
from pipeline.training.batches import DataPlace
from pipeline.training.config import MixtureSource

NEEDED = ("curate", "select")


def own_place(inputs: Mapping[str, Result], keep: KeepList) -> DataPlace:
    """A keep-list of this run.

    Args:
        inputs: Finished stages; ``curate``, and ``embed`` where there are embeddings.
        keep: The list.
    """
    embedded = inputs.get("embed")
    return DataPlace(inputs["curate"].uri, keep, embedded.uri if embedded else None)


def other_place(
    source: MixtureSource, inputs: Mapping[str, Result], *, needs_z: bool
) -> tuple[DataPlace, dict[str, str]]:
    """A keep-list of another run, and the hashes of what is read there.

    Args:
        source: Names the run's folder and the list.
        inputs: Finished stages of this run.
        needs_z: Whether the task reads embeddings.

    Raises:
        ConfigError: The other run has no such list, or embeds with another CLIP.
        DataError: The list is damaged.
    """
    found = other_run(source)
    if needs_z and _clip_of(found) != _clip_of(inputs):
        raise ConfigError(
            f"mixture.path={source.path}: its embeddings are of CLIP {_named(_clip_of(found))}, "
            f"those of this run of {_named(_clip_of(inputs))}; embed both with the same weights"
        )
    keep = keep_list(found["select"], source.profile)
    keep.verify()
    return own_place(found, keep), hashes_of(found, source.profile)


def other_run(source: MixtureSource) -> dict[str, Result]:
    """The finished stages of another run that a mixture reads.

    Raises:
        ConfigError: A stage is missing there, or the keep-list.
    """
    assert source.path is not None
    places = stage_places(storage.absolute(source.path))
    results = {name: read_result(uri) for name, uri in places.items()}
    found = {name: result for name, result in results.items() if result is not None}
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise ConfigError(
            f"mixture.path={source.path}: the stage {missing[0]} is not finished there; run it "
            "first, or leave the source out"
        )
    profiles = found["select"].content["profiles"]
    if source.profile not in profiles:
        raise ConfigError(
            f"mixture.path={source.path}: no keep-list {source.profile!r} there, only "
            f"{', '.join(sorted(profiles))}; name one of them"
        )
    return found


def hashes_of(found: Mapping[str, Result], profile: str) -> dict[str, str]:
    """Identity of what a mixture reads of another run: its data set, embeddings and list."""
    hashes = {name: found[name].manifest_hash for name in ("curate", "embed") if name in found}
    return {**hashes, "keep": str(found["select"].content["profiles"][profile]["sha256"])}


def _clip_of(results: Mapping[str, Result]) -> str | None:
    return results["embed"].content["clip_sha256"] if "embed" in results else None


def _named(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:12]}…"


def check(place: DataPlace, view_px: int | None, *, weighs: bool) -> None:
    """Refuse what the task cannot read.

    Args:
        place: A keep-list and its data set.
        view_px: Side of the view that the task reads; None for no picture.
        weighs: Whether a weight per sample means something to its loss.

    Raises:
        ConfigError: The view is missing, or the weights mean nothing.
    """
    if view_px is not None:
        CuratedDataset.open(place.curated_uri).require_view(view_px)
    if place.keep.has_weights and not weighs:
        raise ConfigError(
            f"{place.keep.uri} weighs its samples, but a contrastive loss compares the samples of "
            "a batch with each other and has no loss of each; read a keep-list without weights"
        )
