"""What protocols found, for programs (``protocols.json``) and for people (``protocols.html``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline import results, storage
from pipeline.chain.report import commit
from pipeline.evaluation import protocols
from pipeline.evaluation.collect import stage_cost
from pipeline.evaluation.evaluate import read_metrics
from pipeline.evaluation.metrics import Estimate
from pipeline.evaluation.report import write_report
from pipeline.evaluation.report_data import Lines, ReportData, ScoreTable, StageCost, Thumbnail
from pipeline.evaluation.score_tables import named_scores, words
from pipeline.results import CIRCUMSTANCE, Result
from pipeline.run_file import RunFile

TABLE, REPORT = "protocols.json", "protocols.html"
PROTOCOL = "protocol_"
"""Before a protocol's name, the name of its stage."""
NOTES = {
    "cosine_to_z_img": "Of a prior's draw and the true z_img of the held-out picture that the "
    "caption was written for. A prior that draws from the right distribution stays below one that "
    "says its mean: a draw has the spread of the data, the mean has none.",
    "cosine_to_z_img_centred": "The same after the mean z_img of the data was taken from both.",
    "cosine_to_other_z_img": "Of the draw and the z_img of another held-out picture.",
    "clip_score": "2.5 × the cosine of picture and caption. The run's own CLIP guides the drawing "
    "and flatters it: for comparing ways to draw, not runs of others.",
    "typographic_attack": "Pictures whose caption names one class, before and after another "
    "class's name was drawn on them, and variations of the latter drawn without a caption.",
    "probes_judge": "Pictures of prompts at known limits, as the judge of attributes reads them. "
    "Intervals are of resampled prompts.",
    "memorisation": "Cosine to the nearest training picture by the run's own CLIP. Near means "
    "alike to this CLIP, not equal: look at the pictures.",
    "seconds_per_picture": "Wall time with loaded models on the machine that measured.",
    "cosine_over_linear_prior": "Cosine to the true z_img minus the linear prior's, sample by "
    "sample. The linear prior says the mean of what may be: means of draws are its like.",
    "cosine_over_linear_prior_with_residuals": "The same over draws of the linear prior: its mean "
    "and the residual of a random training sample. Single draws are its like.",
    "inversion": "Held-out pictures, inverted to noise with their own z_img and no caption and "
    "drawn again with eta 0; and drawn from other noise.",
    "reconstruction": "Held-out pictures, inverted and drawn again, against themselves.",
    "interpolation": "Ends of interpolations against reconstructions, largest byte of each "
    "picture, of 255.",
    "variations": "Pictures drawn from a picture's z_img with fresh noise on the way, from its own "
    "x_T or another: how often what was read in the picture is read again.",
    "text_differences": "Of reconstructions that show what their caption says of an attribute: how "
    "often the new value is read after the text difference, and whether all else stays.",
    "principal_components": "Pictures drawn from the first principal components of z_img, all from "
    "one noise: mean squared Laplacian, and PSNR to what all components show.",
}
CONDITIONS = (
    "Held-out loss as is, and with conditions of other samples; a rise is taken sample by sample. "
    "Of codes in nats per code."
)
UPSAMPLERS = (
    "Held-out pictures, shrunk and degraded as in training, against bicubic of the same input. "
    "Fréchet distances on the run's own CLIP (pictures x crops of its side); their intervals are "
    "of resampled pictures."
)


def finished_protocols(output_dir: str, known: Mapping[str, Result]) -> dict[str, Result]:
    """By name, the newest result of each protocol that was measured on these very stages."""
    found: dict[str, Result] = {}
    for name in sorted(storage.list_names(output_dir)):
        if name.startswith(PROTOCOL):
            folder = storage.join(output_dir, name)
            places = [storage.join(folder, each) for each in storage.list_names(folder)]
            fitting = [r for uri in places if (r := results.read_result(uri)) and _fits(r, known)]
            if fitting:
                found[name.removeprefix(PROTOCOL)] = max(fitting, key=_ended_s)
    return found


def _fits(result: Result, known: Mapping[str, Result]) -> bool:
    """Whether every stage it stands on is the run's; those of rivals and other runs are not."""
    stood_on = result.manifest["inputs"]
    return all(stood_on[name] == known[name].manifest_hash for name in stood_on if name in known)


def _ended_s(result: Result) -> float:
    return storage.read_json(storage.join(result.uri, CIRCUMSTANCE))["ended_s"]


def write_protocols(
    run: RunFile, measured: Mapping[str, Result], models: Mapping[str, Result]
) -> dict[str, Any]:
    """Write both files beside the run's stages.

    Args:
        run: The run file.
        measured: Finished protocols by name.
        models: Trainings by name, whose time is told.

    Returns:
        ``protocols_path``, ``report_path``.
    """
    data = protocol_data(run, measured, models)
    table = {
        "run": run.name,
        "commit": commit(),
        "protocols": {name: {"uri": r.uri, **r.content} for name, r in measured.items()},
        "trainings": {cost.stage: _times(models[cost.stage]) for cost in data.costs},
    }
    table_uri, report_uri = (storage.join(run.output_dir, name) for name in (TABLE, REPORT))
    storage.write_json(table_uri, table)
    write_report(data, report_uri)
    return {"protocols_path": table_uri, "report_path": report_uri}


def protocol_data(
    run: RunFile, measured: Mapping[str, Result], models: Mapping[str, Result]
) -> ReportData:
    """What a report shows of finished protocols and of the trainings of the models they measure."""
    costs = (_cost(name, each) for name, each in models.items() if "samples" in each.content)
    return ReportData(
        title=f"{run.name}: protocols",
        subtitle="What the models are worth beside others, on held-out samples",
        facts=[("Commit", commit()[:12]), ("Output", run.output_dir)],
        score_tables=[each for name in measured for each in _tables(name, measured[name])],
        lines=[each for result in measured.values() for each in _lines(result)],
        sheets=[each for result in measured.values() for each in _sheets(result)],
        costs=[cost for cost in costs if cost is not None],
    )


def failed_gates(run: RunFile, measured: Mapping[str, Result]) -> list[str]:
    """A line per bound of the run file that does not hold, of what was measured."""
    flat = {
        name: found
        for result in measured.values()
        for group in result.content["metrics"].values()
        for name, found in group.items()
    }
    bounds = run.protocols
    gates, limits = (
        {name: bound for name, bound in each.items() if name.partition(".")[0] in flat}
        for each in (bounds.gates, bounds.limits)
    )
    return protocols.failed_gates(flat, gates, limits)


def _tables(protocol: str, result: Result) -> list[ScoreTable]:
    return [
        ScoreTable(_title(protocol, group), _note(group), named_scores(found))
        for group, found in read_metrics(result.content).items()
    ]


def _title(protocol: str, group: str) -> str:
    """Of a table: the protocol, and what it measured where its name does not say so."""
    name, told = (words(each) for each in (protocol, group))
    title = told if told.startswith(name) else f"{name}: {told}"
    return title[0].upper() + title[1:]


def _note(group: str) -> str:
    if group.endswith("_conditions"):
        return CONDITIONS
    return UPSAMPLERS if group.startswith("upsampler_") else NOTES.get(group, "")


def _sheets(result: Result) -> list[Thumbnail]:
    return [
        Thumbnail(storage.read_bytes(storage.join(result.uri, name)), name.removesuffix(".png"))
        for name in result.content.get("sheets", [])
    ]


def _lines(result: Result) -> list[Lines]:
    return [
        Lines(
            title=words(found["title"]),
            x_label=found["x_label"],
            x=found["x"],
            series={
                words(name): [Estimate(**each) for each in estimates]
                for name, estimates in found["series"].items()
            },
        )
        for found in result.content.get("lines", [])
    ]


def _times(result: Result) -> dict[str, Any]:
    """Sizes and times of a training: of its stage, of its loop, CPU of the job's own process."""
    facts = storage.read_json(storage.join(result.uri, CIRCUMSTANCE))
    return {
        "num_parameters": result.content["num_parameters"],
        "samples": result.content["samples"],
        "wall_s": facts["ended_s"] - facts["started_s"],
        "work_s": facts["work_s"],
        "cpu_s": facts.get("cpu_s"),
    }


def _cost(name: str, result: Result) -> StageCost | None:
    cost = stage_cost(name, result)
    if cost is None:
        return None
    times = _times(result)
    told = [f"{times['samples']:,} samples", f"{times['num_parameters']:,} parameters"]
    if times["cpu_s"] is not None:
        told.append(f"{times['cpu_s']:.0f} CPU s in the job's process")
    return replace(cost, note=", ".join(told))
