"""Protocols that draw pictures with a run's whole stack: what they stand on, and their tasks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import storage
from pipeline.chain import oracle
from pipeline.chain.protocol_tasks import held_out_source, output, run_tasks
from pipeline.chain.stages import Work
from pipeline.errors import ConfigError
from pipeline.evaluation.config import (
    DrawnCheck,
    Features,
    GuidanceCheck,
    InceptionFeatures,
    OpenClipFeatures,
    OwnClipFeatures,
    PriorImportanceCheck,
)
from pipeline.generation.config import Sampling
from pipeline.generation.prompts import Prompt
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile

if TYPE_CHECKING:
    from pipeline.evaluation.drawn import ReadHeldOut, Way
    from pipeline.evaluation.drawn_metrics import Compared
    from pipeline.evaluation.features import FeatureSource
    from pipeline.generation.run_stages import RunStages
    from pipeline.models.clip import ClipModel
    from pipeline.models.inception import FidInception

Check = TypeVar("Check", bound=DrawnCheck)
CAPTION_ONLY = "caption_only"
REAL = "held-out"


def settled(config: Check, run: RunFile) -> Check:
    """The same with what it leaves to the run: sampling, and the hashes of weights files.

    Raises:
        ConfigError: A weights file is missing, or not the one whose hash is stated.
    """
    sampling = config.sampling or (Sampling() if run.generate is None else run.generate.sampling)
    used = sampling.upsamplers[: config.num_upsamplers]
    return config.model_copy(
        update={
            "sampling": sampling.model_copy(update={"upsamplers": used}),
            "features": tuple(_hashed(each) for each in config.features),
        }
    )


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


def models(run: RunFile, known: Mapping[str, Result]) -> dict[str, Result]:
    """The stages whose weights draw pictures, prior and decoder at least.

    Raises:
        ConfigError: One is not finished.
    """
    missing = [name for name in ("prior", "decoder") if name not in known]
    if missing:
        raise ConfigError(f"no {' and no '.join(missing)} is finished; run jobs.run first")
    names = ["prior", "decoder", *(name for name in run.upsampler_names() if name in known)]
    return {name: known[name] for name in names}


def prior_importance(config: PriorImportanceCheck, work: Work) -> StageOutput:
    """The caption alone; z_txt in the place of z_img; the whole stack (paper §5.1, Fig. 8)."""
    from pipeline.evaluation.drawn import Way

    sampling = _sampling(config)
    ways = {
        CAPTION_ONLY: Way(sampling, "none"),
        "z_txt_as_z_img": Way(sampling, "z_txt"),
        "full_stack": Way(sampling),
    }
    compared, done = _compared(config, ways, work)
    groups = {
        "pictures": compared.judged(),
        "clip_score": compared.clip_scores(CAPTION_ONLY),
        **compared.distances(CAPTION_ONLY),
    }
    return output(groups, done, {"sheets": [_sheet(compared, "what the prior is worth", work)]})


def guidance(config: GuidanceCheck, work: Work) -> StageOutput:
    """A sweep of the decoder's guidance, with z_img and with the caption alone."""
    from pipeline.evaluation.drawn import Way, ZImg
    from pipeline.evaluation.drawn_metrics import curves

    systems: dict[str, ZImg] = {"unclip": "prior", CAPTION_ONLY: "none"}
    ways = {
        f"{system}_{f'{scale:g}'.replace('.', '_')}": Way(_sampling(config, scale), z_img)
        for system, z_img in systems.items()
        for scale in config.guidance_scales
    }
    compared, done = _compared(config, ways, work)
    groups = {
        "pictures": compared.judged(),
        "clip_score": compared.clip_scores(),
        **compared.distances(),
    }
    num = len(config.guidance_scales)
    lines = []
    for title, part in _drawn_as_curves(groups):
        found = list(part.values())
        series = {name: found[i * num :][:num] for i, name in enumerate(systems)}
        lines.append(curves(title, config.guidance_scales, series))
    sheets = [_sheet(compared, "guidance", work)]
    return output(groups, done, {"sheets": sheets, "lines": lines})


def _drawn_as_curves(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Title and estimates, in the order of the ways, of what one number per way was measured."""
    found: dict[str, dict[str, Any]] = {}
    for group, estimates in groups.items():
        for name, estimate in estimates.items():
            title = group.replace("_", " ")
            if group == "pictures":
                title = name.rsplit("_", 2)[1] + " right"
            elif group.startswith("precision_and_recall"):
                title = ("recall" if "_recall_" in name else "precision") + group[20:]
            elif group == "clip_score":
                title = "CLIP score, " + name.split("_clip_score_")[1].rsplit("_", 1)[0]
            found.setdefault(title.replace("_", " "), {})[name] = estimate
    return list(found.items())


def _sampling(config: DrawnCheck, guidance_scale: float | None = None) -> Sampling:
    assert config.sampling is not None  # settled
    if guidance_scale is None:
        return config.sampling
    decoder = config.sampling.decoder.model_copy(update={"guidance_scale": guidance_scale})
    return config.sampling.model_copy(update={"decoder": decoder})


def _compared(
    config: DrawnCheck, ways: "Mapping[str, Way]", work: Work
) -> "tuple[Compared, dict[str, dict[str, Any]]]":
    """Every way of drawing the same prompts beside held-out pictures, and all tasks' results."""
    from pipeline.evaluation.drawn import DrawAndRead
    from pipeline.evaluation.drawn_metrics import Compared

    prompts, judge = oracle.prompts_and_judge(config.num_pictures, config.seed, work.run)
    if not prompts:
        captions = held_out_source(config, work).pairs().captions[: config.num_pictures]
        prompts = [Prompt(text) for text in captions]
    stages, sources = _stages(work), feature_sources(config.features, work)
    tasks: dict[str, Any] = {
        name: DrawAndRead(
            stages=stages,
            way=way,
            prompts=tuple(prompts),
            features=sources,
            judge=judge,
            seed=config.seed,
            batch_size=config.batch_size,
            threads=config.execution.threads,
            file_uri=storage.join(work.uri, "work", f"{name}.safetensors"),
        )
        for name, way in ways.items()
    }
    tasks[REAL] = _held_out(config, stages, sources, work)
    done = run_tasks(tasks, work)
    found = {name: done[name] for name in ways}
    return Compared(found, done[REAL], config.seed, config.num_resamples), done


def _held_out(
    config: DrawnCheck, stages: "RunStages", sources: "Sequence[FeatureSource]", work: Work
) -> "ReadHeldOut":
    from pipeline.evaluation.drawn import ReadHeldOut
    from pipeline.generation.weights import drawn_px

    side_px = drawn_px(stages, config.num_upsamplers)
    uri = storage.join(work.uri, "work", f"{REAL}.safetensors")
    threads = config.execution.threads
    held_out = held_out_source(config, work)
    return ReadHeldOut(held_out, side_px, tuple(sources), config.batch_size, threads, uri)


def _stages(work: Work) -> "RunStages":
    from pipeline.generation.run_stages import RunStages

    return RunStages.of(work.inputs)


def feature_sources(configs: Sequence[Features], work: Work) -> "tuple[FeatureSource, ...]":
    """What tasks load the networks from."""
    from pipeline.evaluation.features import OWN_CLIP, FeatureSource

    found = []
    for config in configs:
        if isinstance(config, OpenClipFeatures):
            name = config.model.replace("-", "_").replace(".", "_")
            found.append(FeatureSource(name, partial(_open_clip, config.model, config.path)))
        elif isinstance(config, InceptionFeatures):
            found.append(FeatureSource("inception", partial(_inception, config.path)))
        else:
            found.append(FeatureSource(OWN_CLIP, partial(_own_clip, work.inputs["clip"].uri)))
    return tuple(found)


def _own_clip(uri: str) -> "ClipModel":
    import torch

    from pipeline.generation.weights import load_clip

    return load_clip(uri, torch.device("cpu"))


def _open_clip(model: str, path: str) -> "ClipModel":
    from pipeline.interop.open_clip import load_open_clip

    return load_open_clip(model, storage.local_path(path))


def _inception(path: str) -> "FidInception":
    from pipeline.models.inception import load_inception

    return load_inception(storage.local_path(path))


def _sheet(compared: "Compared", name: str, work: Work) -> str:
    storage.write_bytes(storage.join(work.uri, f"{name}.png"), compared.sheet())
    return f"{name}.png"


WORK: dict[str, Callable[[Any, Work], StageOutput]] = {
    "prior_importance": prior_importance,
    "guidance": guidance,
}
"""The protocols by name."""
