"""What the sections of a run file must agree about, checked before anything runs.

Each rule takes the run and raises ValueError: value, rule and remedy in one line.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.candidates.config import FolderConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.errors import ConfigError
from pipeline.generation.config import HeldOutPrompts
from pipeline.interop.config import sides
from pipeline.models.config import ClipConfig
from pipeline.tracking_store import store_uri
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    ClipTaskConfig,
    DecoderTaskConfig,
    LinearPriorTaskConfig,
    LinearPriorTraining,
    PriorTaskConfig,
    TrainConfig,
    UpsamplerTaskConfig,
)

if TYPE_CHECKING:
    from pipeline.run_file import RunFile

NEEDS = {
    "candidates": ("queries",),
    "balance": ("queries", "candidates"),
    "curate": ("balance",),
    "img2dataset": ("balance",),
    "clip": ("curate or img2dataset or adopt", "embed", "select"),
    "embed": ("curate or img2dataset or adopt", "clip or open_clip"),
    "score": ("embed",),
    "select": ("embed",),
    "prior": ("select",),
    "decoder": ("select",),
    "upsamplers": ("select",),
    "generate": ("decoder", "clip or open_clip"),
    "evaluate": ("generate", "select"),
}
"""Sections without which a section has nothing to work on; CLIP's training obeys the split that
``select`` states."""
INSTEAD = {
    "adopt": ("queries", "candidates", "balance", "curate", "img2dataset"),
    "img2dataset": ("curate",),
    "open_clip": ("clip",),
}
"""Sections that bring what others would make."""
TASKS = {
    "clip": (ClipTaskConfig,),
    "prior": (PriorTaskConfig, AutoregressivePriorTaskConfig),
    "decoder": (DecoderTaskConfig,),
}
_READS_CLIP = (
    PriorTaskConfig, AutoregressivePriorTaskConfig, LinearPriorTaskConfig, DecoderTaskConfig,
)  # fmt: skip
_DIFFUSES = (PriorTaskConfig, DecoderTaskConfig, UpsamplerTaskConfig)


def sections_have_what_they_need(run: "RunFile") -> None:
    """A section's inputs are sections of the same file."""
    needs = dict(NEEDS)
    if run.queries is not None and run.queries.reads_captions():
        needs["queries"] = ("candidates",)
    for section, needed in needs.items():
        missing = [names for names in needed if not any(_has(run, n) for n in names.split(" or "))]
        if getattr(run, section) and missing:
            raise ValueError(
                f"section {section} needs {' and '.join(missing)}; add what is missing, or leave "
                f"{section} out"
            )


def _has(run: "RunFile", section: str) -> bool:
    """Whether a section is there, or its model comes from somewhere else."""
    return bool(getattr(run, section)) or run.imports(section)


def something_starts_the_run(run: "RunFile") -> None:
    """A run begins with queries, or with shards or models that are there; nothing comes twice."""
    if not (run.queries or run.adopt or run.imported or run.open_clip):
        raise ValueError(
            "a run starts with the section queries, or with adopt for existing shards, or with "
            "imported or open_clip for existing models"
        )
    for section, others in INSTEAD.items():
        both = [name for name in others if getattr(run, name)]
        if getattr(run, section) and both:
            raise ValueError(
                f"section {section} stands in the place of {', '.join(others)}, this run has "
                f"{', '.join(both)} too; leave one out"
            )


def imported_models_come_once(run: "RunFile") -> None:
    """No section makes what another brings, and what stands on a CLIP has one."""
    if run.imported is None:
        return
    sections = {"clip": ("clip", "open_clip"), "prior": ("prior",), "decoder": ("decoder",)}
    made = [
        section
        for model in run.imported.models
        for section in sections.get(model, ())
        if getattr(run, section)
    ] + [name for name, _ in run.upsampler_stages() if run.imports(name)]
    if made:
        raise ValueError(
            f"imported.models={run.imported.models}: this run has {', '.join(made)} too; leave one "
            "out"
        )
    if not (_has(run, "clip") or run.open_clip) and {"prior", "decoder"} & {*run.imported.models}:
        raise ValueError(
            f"imported.models={run.imported.models} holds no clip, on which a prior and a decoder "
            "stand; add it, or section open_clip"
        )


def tasks_stand_in_their_sections(run: "RunFile") -> None:
    """``prior`` and ``rival_priors`` train priors."""
    for name, config in run.training_stages():
        if not isinstance(config.task, TASKS.get(name, (UpsamplerTaskConfig,))):
            section = name if name in TASKS else "upsamplers"
            raise ValueError(f"section {section} holds a task of type {config.task.type}")
    for number, rival in enumerate(run.rival_priors):
        if not isinstance(rival.task, (*TASKS["prior"], LinearPriorTaskConfig)):
            raise ValueError(f"rival_priors[{number}] holds a task of type {rival.task.type}")


def samples_can_be_balanced(run: "RunFile") -> None:
    """A pilot's share leaves a query at least one caption to be made of and one pair to keep."""
    if run.candidates is None or run.queries is None:
        return
    run.queries.for_sample(run.candidates.sample)
    if run.balance is not None:
        run.balance.for_sample(run.candidates.sample)


def models_know_their_clip(run: "RunFile") -> None:
    """Prior and decoder are as wide as the CLIP that this run trains."""
    clip = run.clip.task if run.clip is not None else None
    if isinstance(clip, ClipTaskConfig):
        check_widths(run, clip.model)


def check_widths(run: "RunFile", clip: ClipConfig) -> None:
    """Compare what prior and decoder state of their CLIP with the one that they will get.

    Raises:
        ValueError: They state another.
    """
    wanted = (clip.embed_dim, clip.text.width)
    closed = [("prior", run.prior)] if isinstance(run.prior, LinearPriorTraining) else []
    rivals = [(f"rival_priors[{number}]", each) for number, each in enumerate(run.rival_priors)]
    for name, config in [*run.training_stages(), *closed, *rivals]:
        task = config.task
        if isinstance(task, _READS_CLIP):
            stated = (task.model.clip.embed_dim, task.model.clip.text_width)
            if stated != wanted:
                raise ValueError(
                    f"{name}.task.model.clip states embed_dim, text_width = {stated}, the CLIP of "
                    f"this run has {wanted}; write the same values"
                )


def rivals_learn_from_the_same(run: "RunFile") -> None:
    """Priors that are compared read the same samples."""
    for number, rival in enumerate(run.rival_priors):
        if isinstance(rival, TrainConfig) and (rival.warm_start or rival.branch):
            raise ValueError(
                f"rival_priors[{number}] has a warm_start or a branch; priors are compared as they "
                "learn from the beginning: leave it out"
            )
    own = [] if run.prior is None else [("prior", run.prior)]
    rivals = [(f"rival_priors[{number}]", each) for number, each in enumerate(run.rival_priors)]
    for (first, prior), (name, rival) in pairwise([*own, *rivals]):
        if _read_by(rival) != _read_by(prior):
            raise ValueError(
                f"{name} reads {_read_by(rival)}, {first} reads {_read_by(prior)}; priors are "
                "compared on the same keep-list: write the same profile or mixture"
            )


def _read_by(prior: "TrainConfig | LinearPriorTraining") -> list[tuple[str | None, str, float]]:
    """Where a prior reads, which list, in what share."""
    if isinstance(prior, LinearPriorTraining):
        return [(None, prior.profile, 1.0)]
    return [(source.path, source.profile, source.weight) for source in prior.sources()]


def sides_join(run: "RunFile") -> None:
    """Each upsampler starts from the side at which the model before it ends."""
    task = run.decoder.task if run.decoder is not None else None
    side = task.model.image_px if isinstance(task, DecoderTaskConfig) else None
    for name in run.upsampler_names():
        low, high = sides(name)
        if side not in (low, None):
            raise ValueError(
                f"{name} reads {low} px, the model before it makes {side} px; change low_px or the "
                "order"
            )
        side = high


def views_exist(run: "RunFile") -> None:
    """Every view that a model reads is written."""
    views = run.views_px()
    section_of_views = "curate.shards.views_px"
    for section in ("adopt", "img2dataset"):
        if getattr(run, section):
            section_of_views = f"{section}.views_px"
    for section, config in run.training_stages():
        task = config.task
        reads_view = isinstance(task, DecoderTaskConfig | UpsamplerTaskConfig)
        if reads_view and task.view_px not in views:
            raise ValueError(
                f"{section} reads a {task.view_px} px view, {section_of_views}={views}; add it"
            )


def profiles_exist(run: "RunFile") -> None:
    """Every keep-list that a section names is made; CLIP may also read everything."""
    if run.select is None:
        return
    made = tuple(run.select.profiles)
    named = [
        (f"{name}.mixture" if config.mixture else name, source.profile)
        for name, config in run.training_stages()
        for source in config.sources()
        if name != "clip" and source.path is None
    ]
    if isinstance(run.prior, LinearPriorTraining):
        named.append(("prior", run.prior.profile))
    if run.evaluate is not None:
        named.append(("evaluate", run.evaluate.profile))
    for section, profile in named:
        if profile not in made:
            raise ValueError(
                f"{section}.profile={profile!r} is not in select.profiles={made}; add it there"
            )


def profiles_read_what_is_scored(run: "RunFile") -> None:
    """Bounds are on columns that the stage `score` makes."""
    scoring = run.scoring()
    if run.select is None or scoring is None:
        return
    floor = scoring.semantic.floor if scoring.semantic is not None else None
    has_sets = bool(scoring.evaluation_sets)
    if told := run.select.unscored(scoring.numeric_columns(), floor, has_sets=has_sets):
        raise ValueError(told)


def stated_hashes_are_carried(run: "RunFile") -> None:
    """The column whose hashes the crawl compares comes along with the candidates."""
    column = run.curate.crawl.sha256_column if run.curate is not None else None
    carried = getattr(run.candidates, "carried_columns", ())
    if column is not None and column not in carried:
        raise ValueError(
            f"curate.crawl.sha256_column={column!r} is not in "
            f"candidates.carried_columns={carried}; add it there"
        )


def img2dataset_reaches_the_pictures(run: "RunFile") -> None:
    """img2dataset fetches from the web, onto a local disk."""
    if run.img2dataset is None:
        return
    if isinstance(run.candidates, SmallWebConfig | FolderConfig):
        raise ValueError(
            f"section img2dataset fetches from the web, candidates.type={run.candidates.type} is "
            "read by our own crawl alone; use section curate"
        )
    if not storage.is_local(run.output_dir):
        raise ValueError(
            f"section img2dataset writes to a local folder, output_dir={run.output_dir!r} is none; "
            "name one, or use section curate"
        )


def sampling_fits_the_models(run: "RunFile") -> None:
    """No more denoising steps, and no more upsamplers, than were trained."""
    if run.generate is None:
        return
    named = run.upsampler_names()
    if len(run.generate.upsamplers) > len(named):
        raise ValueError(
            f"generate.upsamplers has {len(run.generate.upsamplers)} entries, the run has "
            f"{len(named)} upsamplers; give at most one entry for each"
        )
    sampled = {"prior": run.generate.prior, "decoder": run.generate.decoder}
    sampled |= dict(zip(named, run.generate.upsamplers, strict=False))
    for name, config in run.training_stages():
        if name in sampled and isinstance(config.task, _DIFFUSES):
            wanted, trained = sampled[name].num_steps, config.task.diffusion.num_steps
            if wanted > trained:
                raise ValueError(
                    f"generate asks {name} for num_steps={wanted}, it is trained with {trained}; "
                    "use fewer"
                )


def the_decoder_gets_its_embedding(run: "RunFile") -> None:
    """A decoder that reads pictures' embeddings is sampled with a prior."""
    if run.generate is None or _has(run, "prior"):
        return
    task = run.decoder.task if run.decoder is not None else None
    if not isinstance(task, DecoderTaskConfig) or task.model.embedding == "z_img":
        raise ValueError(
            "section generate needs prior: decoder.task.model.embedding=z_img are embeddings of "
            "pictures, which a prior draws; add it, or train the decoder on z_txt or none"
        )


def ablations_have_their_mean(run: "RunFile") -> None:
    """Two ablations show the decoder the mean embedding of the data."""
    generate = run.generate
    if generate is not None and generate.ablations.num_pictures and run.embed is None:
        raise ValueError(
            f"generate.ablations.num_pictures={generate.ablations.num_pictures}: some show the "
            "mean embedding of the data, and this run has no section embed; use 0"
        )


def prompts_exist(run: "RunFile") -> None:
    """Held-out prompts are the small web's."""
    if run.generate is None or isinstance(run.candidates, SmallWebConfig):
        return
    if isinstance(run.generate.prompts, HeldOutPrompts):
        raise ValueError(
            "generate.prompts.type=held_out are the small web's captions and this run has another "
            "source; use inline or file"
        )


def tracking_has_its_place(run: "RunFile") -> None:
    """The embedded database is a local file."""
    try:
        store_uri(run.execution.tracking, run.output_dir)
    except ConfigError as error:
        raise ValueError(f"execution.{error}") from error


RULES: tuple[Callable[["RunFile"], None], ...] = (
    something_starts_the_run,
    imported_models_come_once,
    sections_have_what_they_need,
    tasks_stand_in_their_sections,
    samples_can_be_balanced,
    models_know_their_clip,
    sides_join,
    views_exist,
    profiles_exist,
    profiles_read_what_is_scored,
    stated_hashes_are_carried,
    img2dataset_reaches_the_pictures,
    sampling_fits_the_models,
    the_decoder_gets_its_embedding,
    ablations_have_their_mean,
    prompts_exist,
    rivals_learn_from_the_same,
    tracking_has_its_place,
)
