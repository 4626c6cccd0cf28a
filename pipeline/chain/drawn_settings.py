"""What drawing protocols stand on, and their settings once run and files are asked."""

from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.evaluation.config import (
    DrawnCheck,
    Features,
    HeldOutCheck,
    OwnClipFeatures,
    ProbesCheck,
    SideBySideCheck,
)
from pipeline.generation.config import Sampling
from pipeline.results import Result, read_result
from pipeline.run_file import RunFile


def settled(name: str, run: RunFile) -> HeldOutCheck:
    """A protocol's settings with what they leave to the run or to files.

    Raises:
        ConfigError: A file or another run is missing, or not the one whose hash is stated.
    """
    config: HeldOutCheck = getattr(run.protocols, name)
    return _settled(config, run) if isinstance(config, DrawnCheck) else config


def _settled(config: DrawnCheck, run: RunFile) -> DrawnCheck:
    sampling = config.sampling or (Sampling() if run.generate is None else run.generate.sampling)
    used = sampling.upsamplers[: config.num_upsamplers]
    if isinstance(config, ProbesCheck) and not config.probes:
        from pipeline.evaluation.probes import shipped_probes

        config = config.model_copy(update={"probes": shipped_probes()})
    if isinstance(config, SideBySideCheck):
        config = config.model_copy(update=_other_run(config))
    return config.model_copy(
        update={
            "sampling": sampling.model_copy(update={"upsamplers": used}),
            "features": tuple(_hashed(each) for each in config.features),
        }
    )


def _other_run(config: SideBySideCheck) -> dict[str, Any]:
    from pipeline.generation.run_stages import RunStages, read_sampling

    if not config.path:
        raise ConfigError(
            "protocols.side_by_side.path says nothing; name the output_dir of another run"
        )
    stages = RunStages.read(config.path)
    found = [read_result(uri) for uri in (stages.clip, stages.prior, stages.decoder) if uri]
    found += [read_result(uri) for uri in stages.upsamplers[: config.num_upsamplers]]
    weights = tuple(each.content["weights"]["sha256"] for each in found if each is not None)
    if config.weights not in ((), weights):
        raise ConfigError(
            f"{config.path} has other weights than protocols.side_by_side.weights states; name the "
            "run that was meant"
        )
    sampling = config.other_sampling or read_sampling(config.path)
    used = sampling.upsamplers[: config.num_upsamplers]
    sampling = sampling.model_copy(update={"upsamplers": used})
    return {"weights": weights, "other_sampling": sampling}


def _hashed(config: Features) -> Features:
    if isinstance(config, OwnClipFeatures):
        return config
    if not storage.exists(config.path):
        raise ConfigError(f"features.path={config.path!r}: no such file; nothing is downloaded")
    sha256 = storage.sha256_of(config.path)
    if config.sha256 not in ("", sha256):
        raise ConfigError(
            f"features.path={config.path!r} has sha256 {sha256[:12]}…, features.sha256 states "
            f"{config.sha256[:12]}…; name the file that was meant"
        )
    return config.model_copy(update={"sha256": sha256})


def inputs(name: str, run: RunFile, known: Mapping[str, Result]) -> dict[str, Result]:
    """What a protocol stands on beside the data: the models that draw, or what was generated.

    Raises:
        ConfigError: A stage is not finished.
    """
    needed = ["generate"] if name == "memorisation" else ["prior", "decoder"]
    if missing := [each for each in needed if each not in known]:
        raise ConfigError(
            f"--protocol {name}: no {' and no '.join(missing)} is finished; run jobs.run first"
        )
    if name != "memorisation":
        needed += [each for each in run.upsampler_names() if each in known]
    return {each: known[each] for each in needed}
