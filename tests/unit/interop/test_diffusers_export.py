"""Folders for diffusers: what its pipelines make of them, and what is refused."""

import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.sampling import ddpm_sample, no_threshold
from pipeline.errors import CheckpointError, ConfigError
from pipeline.generation.run_stages import RunStages, read_sampling
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.weights import read_stack
from pipeline.interop.diffusers.limits import Exportable, differences
from pipeline.interop.diffusers.tokens import tokenizer_files
from pipeline.interop.diffusers.write import export, model_index
from pipeline.models.tokenizer import tokenizer
from tests.exportable_stack import CLIP, DIM, SHAPE, TASKS, UNET, make_run, with_model

pytestmark = pytest.mark.slow  # importing diffusers takes ten seconds

STEPS = {
    "prior_num_inference_steps": 4,
    "decoder_num_inference_steps": 4,
    "super_res_num_inference_steps": 3,
}
PROMPTS = ["a red circle", "two blue squares on grey!"]


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(run_uri, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "stack"
    files = read_stack(RunStages.read(run_uri))
    record = export(files, read_sampling(run_uri), str(output), "0.42.1")
    assert json.loads((output / "export.json").read_text()) == record
    assert [path.name for path in output.parent.iterdir()] == ["stack"]
    return output


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        import diffusers
        from diffusers.utils import logging
    logging.set_verbosity_error()
    return diffusers


@pytest.fixture(scope="module")
def loader(diffusers, folder):
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def from_generator(generator, shape, dtype):
    """Noise in the order in which the pipelines draw it."""
    return lambda step: torch.randn(shape, generator=generator, dtype=dtype)


def our_pictures(run_uri, texts, seed, prior_scale, decoder_scale):
    """Our networks and samplers, with the pipeline's noise, in float64."""
    unclip = UnCLIP.from_stages(RunStages.read(run_uri), read_sampling(run_uri), device="cpu")
    stack, num = unclip.stack, len(texts)
    prior, decoder, (upsampler, process) = stack.prior, stack.decoder, stack.upsamplers[0]
    for network in (stack.clip, prior.network, decoder, upsampler):
        network.double()
    text = unclip.encode([*texts, ""]).take([*range(num), *[num] * num])
    bound = (text.z_txt, text.text_states, text.text_mask)
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return from_generator(generator, (num, *shape), torch.float64)

    whitened = ddpm_sample(
        guided(lambda z, t: prior.network(z, t, *bound), prior_scale, DIM),
        prior.process,
        noise(DIM),
        STEPS["prior_num_inference_steps"],
        threshold=no_threshold,
    )
    z_img = prior.network.unwhiten(whitened)
    has_z_img = torch.arange(2 * num) < num
    doubled = torch.cat([z_img, z_img])
    small = ddpm_sample(
        guided(lambda x, t: decoder(x, t, doubled, has_z_img, *bound), decoder_scale, 3),
        stack.decoder_process,
        noise(3, 16, 16),
        STEPS["decoder_num_inference_steps"],
        variance="learned_range" if decoder.config.learned_variance else "fixed_small",
    ).clamp(-1, 1)
    large = ddpm_sample(
        lambda x, t: upsampler(x, t, small),
        process,
        noise(3, 32, 32),
        STEPS["super_res_num_inference_steps"],
    )
    return (large.clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("learned", [True, False])
def test_the_pipeline_draws_what_our_networks_draw_with_the_same_noise(
    diffusers, tmp_path, learned
):
    changes = with_model("decoder", learned_variance=learned)
    run_uri = make_run(tmp_path / "run", changes)
    output = tmp_path / "stack"
    export(read_stack(RunStages.read(run_uri)), read_sampling(run_uri), str(output), "0.42.1")
    pipeline = quiet(diffusers.UnCLIPPipeline.from_pretrained(output)).to(torch.float64)
    found = pipeline(
        PROMPTS,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        prior_guidance_scale=2.0,
        decoder_guidance_scale=3.0,
        **STEPS,
    ).images
    expected = our_pictures(run_uri, PROMPTS, 3, 2.0, 3.0)
    assert found.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    for scales in ((2.0, 1.0), (1.0, 3.0)):  # every part of the chain shows in the pictures
        assert np.abs(our_pictures(run_uri, PROMPTS, 3, *scales) - expected).max() > 2e-4


def test_one_folder_serves_every_class(diffusers, loader, folder):
    made = quiet(diffusers.DiffusionPipeline.from_pretrained(folder))
    assert type(made).__name__ == "UnCLIPPipeline"
    variations = quiet(diffusers.UnCLIPImageVariationPipeline.from_pretrained(folder))
    assert type(quiet(loader.load_pipeline())) is type(made)
    picture = made("a red circle", **STEPS).images[0]
    assert picture.size == (32, 32)
    del_prior = {name: num for name, num in STEPS.items() if not name.startswith("prior")}
    results = []
    for pipeline in (variations, quiet(loader.load_variation_pipeline())):
        generator = torch.Generator().manual_seed(1)
        results.append(pipeline(picture, generator=generator, output_type="np", **del_prior).images)
    np.testing.assert_array_equal(*results)


def test_the_second_upsampler_enlarges_what_the_pipeline_made(loader, folder):
    small = torch.rand(1, 3, 32, 32) * 2 - 1
    generator = torch.Generator().manual_seed(1)
    large = loader.enlarge(small, "upsampler_32_64", 4, generator)
    assert large.shape == (1, 3, 64, 64)
    scheduler = loader.DDIMScheduler.from_pretrained(folder / "upsampler_32_64" / "scheduler")
    scheduler.set_timesteps(4)
    # Trained with 20 steps: moves of 5 that end behind step 0.
    assert scheduler.timesteps.tolist() == [19, 14, 9, 4]


def test_schedules_are_the_same_numbers(diffusers, run_uri, folder):
    stack = UnCLIP.from_run(run_uri, device="cpu").stack
    for kind, place, process in (
        ("UnCLIPScheduler", "prior_scheduler", stack.prior.process),
        ("UnCLIPScheduler", "decoder_scheduler", stack.decoder_process),
        ("UnCLIPScheduler", "super_res_scheduler", stack.upsamplers[0][1]),
        ("DDIMScheduler", "upsampler_32_64/scheduler", stack.upsamplers[1][1]),
    ):
        scheduler = getattr(diffusers, kind).from_pretrained(folder / place)
        torch.testing.assert_close(
            scheduler.alphas_cumprod, process.alpha_bar, atol=1e-6, rtol=1e-4
        )


def test_the_tokenizer_reads_prompts_as_ours(diffusers, folder):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    texts = ["", "A red circle!", "wow!! it's 42 cats, naïve café", "tab\t日本語 😀", "x " * 100]
    found = theirs(texts, padding="max_length", truncation=True, max_length=77)
    for text, ids, mask in zip(texts, found.input_ids, found.attention_mask, strict=True):
        expected = tokenizer().encode(text)
        assert ids[: sum(mask)] == expected
        assert mask == [1] * len(expected) + [0] * (77 - len(expected))


def test_tokenizer_files_state_the_models_length():
    assert json.loads(tokenizer_files(33)["tokenizer_config.json"])["model_max_length"] == 33


@pytest.mark.parametrize(
    ("version", "home"),
    [
        ("0.37.1", "unclip"),
        ("0.38.0", "diffusers.pipelines.deprecated.unclip.text_proj"),
        ("1.0.0", "diffusers.pipelines.deprecated.unclip.text_proj"),
    ],
)
def test_the_index_names_the_class_where_the_version_has_it(version, home):
    assert model_index(version)["text_proj"] == [home, "UnCLIPTextProjModel"]


OWN = {"type": "own", "width": 16, "layers": 1, "head_width": 8}


@pytest.mark.parametrize(
    ("tasks", "clip", "words"),
    [
        (with_model("prior", space="scaled"), {}, ["prior.task.model.space=scaled", "whitened"]),
        (with_model("prior", text=OWN), {}, ["prior.task.model.text.type=own", "{type: clip}"]),
        (with_model("decoder", text=OWN), {}, ["decoder.task.model.text.type=own"]),
        (with_model("decoder", embedding="z_txt"), {}, ["embedding=z_txt", "train it on z_img"]),
        (
            with_model("decoder", unet={**UNET, "mid_attention": False}),
            {},
            ["unet.mid_attention=false", "train with true"],
        ),
        (
            with_model("decoder", unet={**UNET, "multipliers": [2, 3]}),
            {},
            ["decoder.task.model.unet.multipliers[0]=2", "use 1"],
        ),
        (
            with_model("decoder", unet={**UNET, "patch_px": 2}),
            {},
            ["decoder.task.model.unet.patch_px=2", "train with 1"],
        ),
        (
            {"decoder": {**TASKS["decoder"], "diffusion": {"prediction": "v"}}},
            {},
            ["decoder.task.diffusion.prediction=v", "eps and x_start"],
        ),
        (
            {
                "upsampler_16_32": {
                    **TASKS["upsampler_16_32"],
                    "diffusion": {"prediction": "eps", "schedule": "linear"},
                }
            },
            {},
            ["upsampler_16_32.task.diffusion.schedule=linear", "cosine alone"],
        ),
        ({"upsampler_16_32": None, "upsampler_32_64": None}, {}, ["upsamplers: none", "train one"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_expressed_is_refused_and_nothing_is_written(tmp_path, tasks, clip, words):
    run_uri = make_run(tmp_path / "run", tasks, {**CLIP, **clip})
    files = read_stack(RunStages.read(run_uri))
    with pytest.raises(ConfigError) as caught:
        export(files, read_sampling(run_uri), str(tmp_path / "out"), "0.42.1")
    assert str(caught.value).startswith("diffusers cannot run this stack: ")
    for word in words:
        assert word in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_convolutional_clip_is_refused(run_uri):
    files = read_stack(RunStages.read(run_uri))
    vision = {"type": "convnext", "image_px": 16, "widths": [8, 16], "depths": [1, 1]}
    model = {**files.clip.config["task"]["model"], "vision": vision}
    clip = replace(files.clip, config={**files.clip.config, "task": {"model": model}})
    with pytest.raises(ConfigError, match=r"vision\.type=convnext: .* is a vision transformer"):
        Exportable.of(replace(files, clip=clip))


def test_a_clip_of_two_sizes_and_a_prior_of_another_kind_are_refused(run_uri):
    files = read_stack(RunStages.read(run_uri))
    wider = {**files.clip.config["task"]["model"], "embed_dim": DIM + 1}
    clip = replace(files.clip, config={"task": {"type": "clip", "model": wider}})
    linear = replace(files.prior, config={"task": {"type": "linear_prior"}})
    with pytest.raises(ConfigError) as caught:
        Exportable.of(replace(files, clip=clip, prior=linear))
    said = str(caught.value)
    assert "clip.task.model.text.width=12" in said
    assert "embed_dim=13" in said
    assert "prior.task.type=linear_prior: the pipeline runs a diffusion prior" in said


def test_as_many_context_tokens_as_pixels_are_refused(tmp_path):
    # 2 x 2 tokens of the picture's side 16 >> 1 = 8: 64 pixels, 61 + 3 tokens.
    shape = {**SHAPE, "context_length": 61}
    tasks = {**with_model("decoder", clip=shape), **with_model("prior", clip=shape)}
    clip = {**CLIP, "text": {**CLIP["text"], "context_length": 61}}
    files = read_stack(RunStages.read(make_run(tmp_path, tasks, clip)))
    with pytest.raises(ConfigError, match="level 1 has 64 pixels, as many as"):
        Exportable.of(files)


def test_a_folder_that_is_there_is_left_alone(run_uri, tmp_path):
    files = read_stack(RunStages.read(run_uri))
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        export(files, read_sampling(run_uri), str(tmp_path), "0.42.1")
    with pytest.raises(ConfigError, match="expected one such as"):
        export(files, read_sampling(run_uri), str(tmp_path / "out"), "new")


def test_weights_that_do_not_fit_their_own_configuration_leave_no_folder(run_uri, tmp_path):
    files = read_stack(RunStages.read(run_uri))
    state = {name: t for name, t in files.decoder.state.items() if name != "null_z"}
    broken = replace(files, decoder=replace(files.decoder, state=state))
    with pytest.raises(CheckpointError, match="missing: null_z"):
        export(broken, read_sampling(run_uri), str(tmp_path / "out"), "0.42.1")
    assert list(tmp_path.iterdir()) == []


def test_differences_are_told(run_uri):
    files = read_stack(RunStages.read(run_uri))
    stack, sampling = Exportable.of(files), read_sampling(run_uri)
    assert differences(stack, sampling) == [
        "the first upsampler is sampled by ancestral steps, not by ddim"
    ]
    first = stack.upsamplers[0]
    bilinear = replace(first, model=first.model.model_copy(update={"resize": "bilinear"}))
    changed = sampling.model_copy(
        update={"prior": sampling.prior.model_copy(update={"num_candidates": 2})}
    )
    told = differences(replace(stack, upsamplers=(bilinear,)), changed)
    assert any("best of 2" in line for line in told)
    assert any("bicubic" in line for line in told)


def test_every_component_folder_has_its_files(folder):
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name in index if not name.startswith("_")]
    assert all((folder / name).is_dir() for name in parts)
    weights = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))
    assert weights == [
        "decoder/diffusion_pytorch_model.safetensors",
        "image_encoder/model.safetensors",
        "prior/diffusion_pytorch_model.safetensors",
        "super_res_first/diffusion_pytorch_model.safetensors",
        "super_res_last/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_proj/diffusion_pytorch_model.safetensors",
        "upsampler_32_64/unet/diffusion_pytorch_model.safetensors",
    ]
    assert not list(Path(folder).rglob("*.tmp-*"))
