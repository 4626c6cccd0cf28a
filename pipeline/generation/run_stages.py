"""Which weights belong together: the stages behind one stack, found by a run's index."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.generation.config import Sampling
from pipeline.results import Result, read_index, read_result, stage_places

UPSAMPLER = "upsampler_"
_MODELS = ("clip", "prior", "decoder")
Z_IMG = "z_img"


@dataclass(frozen=True)
class RunStages:
    """Folders of the stages whose weights make one stack."""

    clip: str
    prior: str | None
    """None where the decoder reads no embedding of a picture."""
    decoder: str
    upsamplers: tuple[str, ...]
    """Smallest first."""

    @classmethod
    def of(cls, results: Mapping[str, Result]) -> "RunStages":
        """The stages among finished results, by their names (``upsampler_16_64``)."""
        return cls._of({name: result.uri for name, result in results.items()}, "the run")

    @classmethod
    def read(cls, run_uri: str) -> "RunStages":
        """The stages that a run's ``run.json`` names.

        Raises:
            ConfigError: No run there, or a stage of the stack is not finished.
        """
        places = stage_places(run_uri)
        return cls._of(places, run_uri)

    @classmethod
    def _of(cls, places: Mapping[str, str], source: str) -> "RunStages":
        wanted = [name for name in _MODELS if name != "prior" or _needs_prior(places)]
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ConfigError(
                f"{source} has no finished {', '.join(missing)}: finish the run with "
                "python -m jobs.run before generating from it"
            )
        upsamplers = sorted((n for n in places if n.startswith(UPSAMPLER)), key=_low_px)
        return cls(
            places["clip"],
            places.get("prior"),
            places["decoder"],
            tuple(places[name] for name in upsamplers),
        )


def _needs_prior(places: Mapping[str, str]) -> bool:
    """Whether the decoder is given embeddings of pictures, by what its manifest says of it."""
    result = read_result(places["decoder"]) if "decoder" in places else None
    task = result.manifest["config"].get("task", {}) if result else {}
    return task.get("model", {}).get("embedding", Z_IMG) == Z_IMG


def read_sampling(run_uri: str) -> Sampling:
    """How the run itself samples: its ``generate`` section.

    Raises:
        ConfigError: The section is not there or was written by another version.
    """
    section = read_index(run_uri).get("config", {}).get("generate", {})
    known = {name: section[name] for name in Sampling.model_fields if name in section}
    try:
        return Sampling.model_validate(known)
    except ValidationError as error:
        raise ConfigError(f"{run_uri}: its generate section is not understood: {error}") from error


def _low_px(name: str) -> int:
    side = name.removeprefix(UPSAMPLER).split("_")[0]
    if not side.isdigit():
        raise ConfigError(f"stage {name} is not named like upsampler_16_64")
    return int(side)
