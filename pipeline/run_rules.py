"""What the sections of a run file must agree about, checked before anything runs.

Each rule takes the run and raises ValueError: value, rule and remedy in one line.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.demo.config import SmallWebConfig
from pipeline.generation.config import HeldOutPrompts
from pipeline.training.config import (
    ClipTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    UpsamplerTaskConfig,
)

if TYPE_CHECKING:
    from pipeline.run_file import RunFile

NEEDS = {
    "balance": ("candidates",),
    "curate": ("balance",),
    "clip": ("curate", "embed", "select"),
    "embed": ("clip",),
    "select": ("embed",),
    "prior": ("select",),
    "decoder": ("select",),
    "upsamplers": ("decoder",),
    "generate": ("prior", "decoder"),
    "evaluate": ("generate",),
}
"""Sections without which a section has nothing to work on; CLIP's training obeys the split that
``select`` states."""
TASKS = {"clip": ClipTaskConfig, "prior": PriorTaskConfig, "decoder": DecoderTaskConfig}


def sections_have_what_they_need(run: "RunFile") -> None:
    """A section's inputs are sections of the same file."""
    needs = dict(NEEDS)
    if run.queries.reads_captions():
        needs["queries"] = ("candidates",)
    for section, needed in needs.items():
        missing = [name for name in needed if not getattr(run, name)]
        if getattr(run, section) and missing:
            raise ValueError(
                f"section {section} needs {' and '.join(missing)}; add what is missing, or leave "
                f"{section} out"
            )


def tasks_stand_in_their_sections(run: "RunFile") -> None:
    """``prior`` trains a prior."""
    for name, config in run.training_stages():
        if not isinstance(config.task, TASKS.get(name, UpsamplerTaskConfig)):
            section = name if name in TASKS else "upsamplers"
            raise ValueError(f"section {section} holds a task of type {config.task.type}")


def samples_can_be_balanced(run: "RunFile") -> None:
    """A pilot's share leaves a query at least one caption to be made of and one pair to keep."""
    if run.candidates is None:
        return
    run.queries.for_sample(run.candidates.sample)
    if run.balance is not None:
        run.balance.for_sample(run.candidates.sample)


def models_know_their_clip(run: "RunFile") -> None:
    """Prior and decoder are as wide as the CLIP that this run trains."""
    for name, config in run.training_stages():
        task, clip = config.task, run.clip.task if run.clip is not None else None
        if isinstance(task, PriorTaskConfig | DecoderTaskConfig) and isinstance(
            clip, ClipTaskConfig
        ):
            wanted = (clip.model.embed_dim, clip.model.text.width)
            stated = (task.model.clip.embed_dim, task.model.clip.text_width)
            if stated != wanted:
                raise ValueError(
                    f"{name}.task.model.clip states embed_dim, text_width = {stated}, the section "
                    f"clip trains {wanted}; write the same values"
                )


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
    views = run.curate.shards.views_px if run.curate is not None else ()
    for section, config in run.training_stages():
        task = config.task
        reads_view = isinstance(task, DecoderTaskConfig | UpsamplerTaskConfig)
        if reads_view and task.view_px not in views:
            raise ValueError(
                f"{section} reads a {task.view_px} px view, curate.shards.views_px={views}; add it"
            )


def profiles_exist(run: "RunFile") -> None:
    """Every keep-list that a section names is made; CLIP may also read everything."""
    if run.select is None:
        return
    made = tuple(run.select.profiles)
    named = [(n, c.profile) for n, c in run.training_stages() if n != "clip"]
    if run.evaluate is not None:
        named.append(("evaluate", run.evaluate.profile))
    for section, profile in named:
        if profile not in made:
            raise ValueError(
                f"{section}.profile={profile!r} is not in select.profiles={made}; add it there"
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
        if name in sampled and not isinstance(config.task, ClipTaskConfig):
            wanted, trained = sampled[name].num_steps, config.task.diffusion.num_steps
            if wanted > trained:
                raise ValueError(
                    f"generate asks {name} for num_steps={wanted}, it is trained with {trained}; "
                    "use fewer"
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
    sections_have_what_they_need,
    tasks_stand_in_their_sections,
    samples_can_be_balanced,
    models_know_their_clip,
    sides_join,
    views_exist,
    profiles_exist,
    sampling_fits_the_models,
    prompts_exist,
)
