"""What the sections of a run file must agree about, checked before anything runs.

Each rule takes the run and raises ValueError: value, rule and remedy in one line.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.candidates.config import FolderConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.generation.config import HeldOutPrompts
from pipeline.models.config import ClipConfig
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
    "upsamplers": ("decoder",),
    "generate": ("decoder",),
    "evaluate": ("generate",),
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
        missing = [
            names for names in needed if not any(getattr(run, n) for n in names.split(" or "))
        ]
        if getattr(run, section) and missing:
            raise ValueError(
                f"section {section} needs {' and '.join(missing)}; add what is missing, or leave "
                f"{section} out"
            )


def something_starts_the_run(run: "RunFile") -> None:
    """A run begins with queries or with shards that are there, and nothing is made twice."""
    if run.queries is None and run.adopt is None:
        raise ValueError("a run starts with the section queries, or with adopt for existing shards")
    for section, others in INSTEAD.items():
        both = [name for name in others if getattr(run, name)]
        if getattr(run, section) and both:
            raise ValueError(
                f"section {section} stands in the place of {', '.join(others)}, this run has "
                f"{', '.join(both)} too; leave one out"
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
    if not run.rival_priors:
        return
    if run.prior is None:
        raise ValueError("rival_priors are compared with prior, which is missing; add it")
    read = _read_by(run.prior)
    for number, rival in enumerate(run.rival_priors):
        if _read_by(rival) != read:
            raise ValueError(
                f"rival_priors[{number}] reads {_read_by(rival)}, prior reads {read}; priors are "
                "compared on the same keep-list: write the same profile or mixture"
            )


def _read_by(prior: "TrainConfig | LinearPriorTraining") -> list[tuple[str | None, str, float]]:
    """Where a prior reads, which list, in what share."""
    if isinstance(prior, LinearPriorTraining):
        return [(None, prior.profile, 1.0)]
    return [(source.path, source.profile, source.weight) for source in prior.sources()]


def sides_join(run: "RunFile") -> None:
    """Each upsampler starts from the side at which the model before it ends."""
    side = None
    for _, config in run.training_stages():
        task = config.task
        if isinstance(task, DecoderTaskConfig):
            side = task.model.image_px
        elif isinstance(task, UpsamplerTaskConfig):
            if task.model.low_px != side:
                raise ValueError(
                    f"an upsampler reads {task.model.low_px} px, the model before it makes "
                    f"{side} px; change low_px or the order"
                )
            side = task.model.high_px


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
    upsamplers = run.upsampler_stages()
    if len(run.generate.upsamplers) > len(upsamplers):
        raise ValueError(
            f"generate.upsamplers has {len(run.generate.upsamplers)} entries, the run trains "
            f"{len(upsamplers)}; give at most one entry per trained upsampler"
        )
    sampled = {"prior": run.generate.prior, "decoder": run.generate.decoder}
    named = [name for name, _ in upsamplers]
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
    task = run.decoder.task if run.decoder is not None else None
    if run.generate is None or run.prior or not isinstance(task, DecoderTaskConfig):
        return
    if task.model.embedding == "z_img":
        raise ValueError(
            "section generate needs prior: decoder.task.model.embedding=z_img are embeddings of "
            "pictures, which a prior draws; add it, or train the decoder on z_txt or none"
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


RULES: tuple[Callable[["RunFile"], None], ...] = (
    something_starts_the_run,
    sections_have_what_they_need,
    tasks_stand_in_their_sections,
    samples_can_be_balanced,
    models_know_their_clip,
    rivals_learn_from_the_same,
    sides_join,
    views_exist,
    profiles_exist,
    profiles_read_what_is_scored,
    stated_hashes_are_carried,
    img2dataset_reaches_the_pictures,
    sampling_fits_the_models,
    the_decoder_gets_its_embedding,
    prompts_exist,
)
