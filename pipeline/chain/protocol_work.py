"""The protocols themselves: which tasks each one runs, and what becomes of their results."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.chain import oracle
from pipeline.chain.protocol_tasks import held_out_source, output, run_tasks
from pipeline.chain.stages import Work
from pipeline.evaluation.config import (
    DecoderCheck,
    HeldOutCheck,
    ManipulationsCheck,
    PriorsCheck,
    UpsamplersCheck,
)
from pipeline.generation.config import PriorSampling, Sampling
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import UPSAMPLER
from pipeline.results import Result, StageOutput

if TYPE_CHECKING:
    from pipeline.evaluation.prior_check import DrawHeldOut
    from pipeline.evaluation.prior_pictures import DrawPrompts
    from pipeline.training.condition_check import HeldOutLosses

DATA = ("curate", "clip", "embed", "select")
"""Stages that every protocol stands on, beside the models it is about."""


def compare_priors(config: PriorsCheck, work: Work) -> StageOutput:
    """Draws, pictures and losses of every prior among the inputs."""
    from pipeline.evaluation import comparisons

    models = {n: r for n, r in work.inputs.items() if n not in (*DATA, "decoder")}
    arms = _arms(models, config)
    draws = {name: _draws(config, arm, work) for name, arm in arms.items()}
    losses = {}
    for name, model in models.items():
        if kind_of(model) == "linear_prior":
            draws[f"{name}_with_residuals"] = replace(draws[name], adds_residuals=True)
        else:
            losses[name] = _losses(config, config.num_draws, model, work)
    drawn = _pictures(config, arms, work)
    kinds: dict[str, Mapping[str, Any]] = {"draws": draws, "losses": losses, "pictures": drawn}
    tasks = {f"{kind}-{n}": task for kind, each in kinds.items() for n, task in each.items()}
    done = run_tasks(tasks, work)
    groups = comparisons.cosines({arm: done[f"draws-{arm}"] for arm in draws}, config.seed)
    groups["pictures"] = comparisons.pictures({n: done[f"pictures-{n}"] for n in drawn})
    for name in losses:
        found = comparisons.conditions(name, done[f"losses-{name}"], config.seed)
        groups[f"{name}_conditions"] = found
    facts = {
        name: {"num_parameters": m.content["num_parameters"], "samples": m.content["samples"]}
        for name, m in models.items()
    }
    return output(groups, done, {"models": facts, "sheets": _joined(drawn, work)})


Arm = tuple[str, PriorSampling]
"""Folder of a prior (or ``CAPTION``, ``MEAN``), and how it is drawn from."""


def _arms(models: Mapping[str, Result], config: PriorsCheck) -> dict[str, Arm]:
    """Every way to draw that is compared, by name."""
    from pipeline.evaluation.prior_check import CAPTION, MEAN

    plain = PriorSampling()
    arms: dict[str, Arm] = {"mean_z_img": (MEAN, plain), "z_txt_itself": (CAPTION, plain)}
    for name, model in models.items():
        for suffix, settings in _ways(kind_of(model), config):
            arms[f"{name}{suffix}"] = (model.uri, settings)
    return arms


def _draws(config: PriorsCheck, arm: Arm, work: Work) -> "DrawHeldOut":
    from pipeline.evaluation.prior_check import DrawHeldOut

    uri, settings = arm
    threads = config.execution.threads
    source = held_out_source(config, work)
    return DrawHeldOut(
        source, work.inputs["clip"].uri, uri, settings, config.seed, config.batch_size, threads
    )


def _pictures(config: PriorsCheck, arms: Mapping[str, Arm], work: Work) -> "dict[str, DrawPrompts]":
    """A task per way to draw, of each kind of draw the one with the most candidates."""
    from pipeline.evaluation.prior_pictures import DrawPrompts

    if "decoder" not in work.inputs or config.num_pictures == 0:
        return {}
    prompts, judge = oracle.prompts_and_judge(config.num_pictures, config.seed, work.run)
    source = held_out_source(config, work)
    if not prompts:
        prompts = [Prompt(text) for text in source.pairs().captions[: config.num_pictures]]
    most = {(uri, s.temperature, s.kept): s.num_candidates for uri, s in arms.values()}
    return {
        name: DrawPrompts(
            clip_uri=work.inputs["clip"].uri,
            decoder_uri=work.inputs["decoder"].uri,
            prior_uri=uri,
            prior=settings,
            decoder=config.decoder,
            prompts=tuple(prompts),
            mean_z_img=source.embedded.statistics()[0],
            judge=judge,
            seed=config.seed,
            batch_size=config.batch_size,
            threads=config.execution.threads,
            strip_uri=storage.join(work.uri, "work", f"{name}.png"),
        )
        for name, (uri, settings) in arms.items()
        if settings.num_candidates == most[uri, settings.temperature, settings.kept]
    }


def _joined(drawn: "Mapping[str, DrawPrompts]", work: Work) -> list[str]:
    from pipeline.evaluation.prior_pictures import joined

    if not drawn:
        return []
    name = "pictures of draws.png"
    strips = {arm: task.strip_uri for arm, task in drawn.items()}
    storage.write_bytes(storage.join(work.uri, name), joined(strips))
    return [name]


def _ways(kind: str, config: PriorsCheck) -> list[tuple[str, PriorSampling]]:
    """Suffix and settings of every way to draw from a kind of prior."""
    if kind == "linear_prior":
        return [("", PriorSampling(num_candidates=1))]
    plain = PriorSampling(num_steps=config.num_steps)
    kept = {
        f"_best_of_{number}" if number > 1 else "": {"num_candidates": number}
        for number in config.num_candidates
    }
    averaged = {"num_candidates": config.num_averaged, "kept": "mean"}
    kept[f"_mean_of_{config.num_averaged}"] = averaged
    temperatures = (
        {"": 1.0}
        if kind == "prior"
        else {f"_temperature_{value:g}".replace(".", "_"): value for value in config.temperatures}
    )
    return [
        (name + suffix, plain.model_copy(update={**draws, "temperature": value}))
        for name, value in temperatures.items()
        for suffix, draws in kept.items()
    ]


def kind_of(model: Result) -> str:
    """The task by which a model was trained."""
    return model.manifest["config"]["task"]["type"]


def check_decoder(config: DecoderCheck, work: Work) -> StageOutput:
    """Losses with other conditions, and inversions."""
    from pipeline.evaluation import comparisons
    from pipeline.evaluation.inversion_check import InvertHeldOut

    model = work.inputs["decoder"]
    tasks = {
        "losses": _losses(config, config.num_draws, model, work),
        "inversion": InvertHeldOut(
            source=held_out_source(config, work),
            clip_uri=work.inputs["clip"].uri,
            decoder_uri=model.uri,
            num_steps=config.inversion_steps,
            seed=config.seed,
            batch_size=config.batch_size,
            threads=config.execution.threads,
            sheet_uri=storage.join(work.uri, "inversion.png"),
        ),
    }
    done = run_tasks(tasks, work)
    groups = {
        "decoder_conditions": comparisons.conditions("decoder", done["losses"], config.seed),
        "inversion": comparisons.inversion(done["inversion"], config.seed),
    }
    return output(groups, done, {"sheets": ["inversion.png"]})


def compare_upsamplers(config: UpsamplersCheck, work: Work) -> StageOutput:
    """PSNR and Fréchet distance of every upsampler among the inputs."""
    from pipeline.evaluation import comparisons
    from pipeline.evaluation.upsampling_check import UpsampleHeldOut
    from pipeline.evaluation.upsampling_features import EmbedUpsampled

    source = held_out_source(config, work)
    names = [name for name in work.inputs if name not in DATA]
    tasks: dict[str, Any] = {}
    features: dict[str, list[str]] = {}
    for level, name in enumerate(names):
        for place, (shard, keys) in enumerate(source.by_shard()):
            held_out = UpsampleHeldOut(
                stage_uri=work.inputs[name].uri,
                settings=config.sampling[level],
                curated=source.curated,
                shard=shard,
                keys=keys,
                seed=config.seed,
                batch_size=config.batch_size,
                threads=config.execution.threads,
            )
            part = f"{name}-{place:05d}"
            file = storage.join(work.uri, "features", f"{part}.safetensors")
            features.setdefault(name.removeprefix("upsampler_"), []).append(file)
            tasks[part] = EmbedUpsampled(
                held_out,
                work.inputs["clip"].uri,
                config.crops_per_side,
                file,
                storage.join(work.uri, f"{part}.png"),
            )
    done = run_tasks(tasks, work)
    rows = [done[name] for name in sorted(done)]
    groups = comparisons.upsamplers(rows, features, config.seed, config.num_resamples)
    sheets = [f"{name}-00000.png" for name in names]
    return output(groups, done, {"sheets": sheets})


def check_manipulations(config: ManipulationsCheck, work: Work) -> StageOutput:
    """Held-out pictures through every manipulation, a task per part of a shard."""
    from pipeline.evaluation import comparisons
    from pipeline.evaluation.manipulation_check import ManipulateHeldOut, Settings
    from pipeline.generation.run_stages import RunStages

    source, sampling = held_out_source(config, work), config.sampling or Sampling()
    shown = config.model_dump(include={"num_steps", "eta", "thetas", "dimensions", "seed"})
    settings = Settings(sampling=sampling, threads=config.execution.threads, **shown)
    stages = RunStages(
        clip=work.inputs["clip"].uri,
        prior=None,
        decoder=work.inputs["decoder"].uri,
        upsamplers=tuple(r.uri for name, r in work.inputs.items() if name.startswith(UPSAMPLER)),
    )
    edits = oracle.edits(source.pairs().captions, config.seed, work.run)
    judge = oracle.prompts_and_judge(0, config.seed, work.run)[1]
    tasks: dict[str, Any] = {}
    first = 0
    for shard, keys in source.by_shard():
        for start in range(0, len(keys), config.batch_size):
            part = keys[start : start + config.batch_size]
            tasks[f"{shard:05d}-{start:06d}"] = ManipulateHeldOut(
                curated=source.curated,
                embedded=source.embedded,
                keys=part,
                first=first,
                edits=tuple(edits[first : first + len(part)]),
                stages=stages,
                settings=settings,
                judge=judge,
                shown_uri=None if first else work.uri,
            )
            first += len(part)
    done = run_tasks(tasks, work)
    groups = comparisons.manipulations([done[name] for name in sorted(done)], config.seed)
    sheets = sorted(name for name in storage.list_names(work.uri) if name.endswith(".png"))
    return output(groups, done, {"sheets": sheets})


def _losses(config: HeldOutCheck, num_draws: int, model: Result, work: Work) -> "HeldOutLosses":
    from pipeline.shards.keep_list import keep_list
    from pipeline.training.condition_check import HeldOutLosses

    return HeldOutLosses(
        stage=model,
        inputs={name: work.inputs[name] for name in ("curate", "clip", "embed")},
        keep=keep_list(work.inputs["select"], config.profile),
        num_samples=config.num_samples,
        num_draws=num_draws,
        seed=config.seed,
        batch_size=config.batch_size,
        threads=config.execution.threads,
    )
