"""Protocols that draw pictures with a run's whole stack: what they stand on, and their tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.chain import oracle
from pipeline.chain.protocol_tasks import held_out_source, output, run_tasks
from pipeline.chain.stages import Work
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.config import (
    DrawnCheck,
    Features,
    GuidanceCheck,
    InceptionFeatures,
    MemorisationCheck,
    OpenClipFeatures,
    OwnClipFeatures,
    PriorImportanceCheck,
    ProbesCheck,
    SideBySideCheck,
    TypographicCheck,
)
from pipeline.generation.config import Sampling
from pipeline.generation.prompts import Prompt
from pipeline.results import StageOutput

if TYPE_CHECKING:
    from pipeline.evaluation.drawn import DrawAndRead, ReadHeldOut, Way
    from pipeline.evaluation.drawn_metrics import Compared
    from pipeline.evaluation.features import FeatureSource
    from pipeline.evaluation.judges import Judge
    from pipeline.generation.run_stages import RunStages
    from pipeline.models.clip import ClipModel
    from pipeline.models.inception import FidInception

CAPTION_ONLY = "caption_only"
OWN_RUN, OTHER_RUN = "this_run", "other_run"
REAL = "held-out"


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


def typographic(config: TypographicCheck, work: Work) -> StageOutput:
    """Held-out pictures with the names of other classes on them, and variations of these."""
    from pipeline.evaluation.typographic_check import (
        AttackHeldOut,
        attack_estimates,
        named_classes,
    )

    if len(config.classes) < 2:
        raise ConfigError(
            f"protocols.typographic.classes={list(config.classes)}: name two classes or more that "
            "captions of held-out pictures name"
        )
    held_out = held_out_source(config, work)
    own = named_classes(held_out.pairs().captions, config.classes, config.things)
    num = int((own >= 0).sum())
    if num < 2:
        raise DataError(
            f"protocols.typographic.classes: {num} held-out captions name exactly one of "
            f"{', '.join(config.classes)}; name what they are about, or raise num_samples"
        )
    clips = [each for each in config.features if not isinstance(each, InceptionFeatures)]
    name = "typographic attack.png"
    task = AttackHeldOut(
        source=held_out,
        stages=_stages(work),
        sampling=_sampling(config),
        clip=feature_sources(clips or [OwnClipFeatures()], work)[0],
        classes=config.classes,
        things=config.things,
        templates=config.templates,
        judge=oracle.prompts_and_judge(0, config.seed, work.run)[1],
        seed=config.seed,
        batch_size=config.batch_size,
        threads=config.execution.threads,
        sheet_uri=storage.join(work.uri, name),
    )
    done = run_tasks({"attack": task}, work)
    return output(attack_estimates(done["attack"], config.seed), done, {"sheets": [name]})


def probes(config: ProbesCheck, work: Work) -> StageOutput:
    """Several pictures per prompt at a known limit, judged where somebody can, and sheets."""
    from pipeline.evaluation.drawn import Way
    from pipeline.evaluation.probes import judged, sheets
    from pipeline.generation import prompts as prompt_rules

    prompt_rules.check([probe.prompt for probe in config.probes])
    prompts = [Prompt(probe.prompt) for probe in config.probes for _ in range(config.num_each)]
    judge = oracle.prompts_and_judge(0, config.seed, work.run)[1]
    task = _draw(config, Way(_sampling(config)), prompts, judge, "probes", work)
    done = run_tasks({"probes": replace(task, num_kept=len(prompts))}, work)
    drawn = done["probes"]
    settings = (config.num_each, config.batch_size, config.seed)
    clips = [source for source in task.features if source.name in drawn["clip_scores"]]
    groups = judged(config.probes, drawn, clips, *settings)
    names = []
    for family, picture in sheets(config.probes, drawn, config.num_each).items():
        names.append(f"probes of {family}.png")
        storage.write_bytes(storage.join(work.uri, names[-1]), picture)
    return output(groups, done, {"sheets": names})


def side_by_side(config: SideBySideCheck, work: Work) -> StageOutput:
    """This run's models and another run's, each as its own run draws, on the same prompts."""
    from pipeline.evaluation.drawn import Way
    from pipeline.generation.run_stages import RunStages
    from pipeline.generation.weights import drawn_px

    assert config.other_sampling is not None  # settled
    other = RunStages.read(config.path)
    sides = [drawn_px(each, config.num_upsamplers) for each in (_stages(work), other)]
    if sides[0] != sides[1]:
        raise ConfigError(
            f"protocols.side_by_side: this run draws {sides[0]} px, {config.path} {sides[1]} px "
            f"with num_upsamplers={config.num_upsamplers}; pictures of one side can be compared"
        )
    ways = {OWN_RUN: Way(_sampling(config)), OTHER_RUN: Way(config.other_sampling)}
    compared, done = _compared(config, ways, work, {OTHER_RUN: other})
    groups = {
        "seconds_per_picture": compared.seconds(),
        "pictures": compared.judged(),
        "clip_score": compared.clip_scores(OTHER_RUN),
        **compared.distances(OTHER_RUN),
    }
    return output(groups, done, {"sheets": [_sheet(compared, "side by side", work)]})


def memorisation(config: MemorisationCheck, work: Work) -> StageOutput:
    """Nearest training pictures of generated and of held-out ones."""
    from pipeline.evaluation import memorisation as check
    from pipeline.evaluation.generated import read_embeddings
    from pipeline.evaluation.tasks import NearestInShard

    held_out, made = held_out_source(config, work), read_embeddings(work.inputs["generate"])
    sets = {check.MADE: made.z_img_of_picture, check.HELD_OUT: held_out.pairs().z_img}
    shards = range(len(held_out.curated.shards))
    tasks = {
        f"{name}-{shard:05d}": NearestInShard(
            held_out.embedded, held_out.keep_list, shard, z_img, config.num_nearest
        )
        for name, z_img in sets.items()
        for shard in shards
    }
    done = run_tasks(tasks, work)
    nearest = {
        name: check.merged([done[f"{name}-{shard:05d}"] for shard in shards], config.num_nearest)
        for name in sets
    }
    found = check.estimates(nearest, config.above_share, config.seed)
    name = "generated pictures nearest to training pictures.png"
    picture = check.shown(work.inputs["generate"], made, nearest[check.MADE], held_out.curated)
    storage.write_bytes(storage.join(work.uri, name), picture)
    return output({"memorisation": found}, done, {"sheets": [name]})


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
    config: DrawnCheck,
    ways: "Mapping[str, Way]",
    work: Work,
    other_stages: "Mapping[str, RunStages] | None" = None,
) -> "tuple[Compared, dict[str, dict[str, Any]]]":
    """Every way of drawing the same prompts beside held-out pictures, and all tasks' results."""
    from pipeline.evaluation.drawn_metrics import Compared

    prompts, judge = oracle.prompts_and_judge(config.num_pictures, config.seed, work.run)
    if not prompts:
        captions = held_out_source(config, work).pairs().captions[: config.num_pictures]
        prompts = [Prompt(text) for text in captions]
    tasks: dict[str, Any] = {
        name: _draw(config, way, prompts, judge, name, work) for name, way in ways.items()
    }
    for name, stages in (other_stages or {}).items():
        tasks[name] = replace(tasks[name], stages=stages)
    tasks[REAL] = _held_out(config, work)
    done = run_tasks(tasks, work)
    found = {name: done[name] for name in ways}
    return Compared(found, done[REAL], config.seed, config.num_resamples), done


def _draw(
    config: DrawnCheck,
    way: "Way",
    prompts: Sequence[Prompt],
    judge: "Judge | None",
    name: str,
    work: Work,
) -> "DrawAndRead":
    from pipeline.evaluation.drawn import DrawAndRead

    return DrawAndRead(
        stages=_stages(work),
        way=way,
        prompts=tuple(prompts),
        features=feature_sources(config.features, work),
        judge=judge,
        seed=config.seed,
        batch_size=config.batch_size,
        threads=config.execution.threads,
        file_uri=storage.join(work.uri, "work", f"{name}.safetensors"),
    )


def _held_out(config: DrawnCheck, work: Work) -> "ReadHeldOut":
    from pipeline.evaluation.drawn import ReadHeldOut
    from pipeline.generation.weights import drawn_px

    return ReadHeldOut(
        source=held_out_source(config, work),
        side_px=drawn_px(_stages(work), config.num_upsamplers),
        features=feature_sources(config.features, work),
        batch_size=config.batch_size,
        threads=config.execution.threads,
        file_uri=storage.join(work.uri, "work", f"{REAL}.safetensors"),
    )


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
    "typographic": typographic,
    "probes": probes,
    "memorisation": memorisation,
    "side_by_side": side_by_side,
}
"""The protocols by name."""
