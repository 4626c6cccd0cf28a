"""Folders of diffusers as stages of a run; nothing here imports diffusers."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.chain import given
from pipeline.chain.export import export_run
from pipeline.chain.plan import plan
from pipeline.chain.stages import stages
from pipeline.config import load_run
from pipeline.errors import CheckpointError, ConfigError
from pipeline.generation.run_stages import RunStages, read_sampling
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.weights import load_upsampler, read_stack
from pipeline.interop.config import ImportedConfig
from pipeline.interop.diffusers.write import export
from pipeline.interop.imported import import_stage
from pipeline.progress import Progress
from pipeline.run_file import RunFile
from pipeline.weights_file import read_config
from tests.exportable_stack import make_run
from tests.synthetic import publish

UPSAMPLERS = ("upsampler_16_32", "upsampler_32_64")
MODELS = ("clip", "prior", "decoder", *UPSAMPLERS)
GENERATE = {
    "prompts": {"type": "inline", "texts": ["a red circle"]},
    "num_pictures": 2,
    "seed": 1,
    "ablations": {"num_pictures": 0},
}


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run_uri, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "stack"
    files = read_stack(RunStages.read(run_uri))
    export(files, read_sampling(run_uri), str(output), "0.42.1")
    return output


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "stack")


def config_of(folder, *models):
    return ImportedConfig(format="diffusers", path=str(folder), models=models or MODELS)


def import_one(folder, model, uri, clip=None, check=lambda config: None):
    output = import_stage(config_of(folder), model, clip, str(uri / model), check)
    return publish(str(uri / model), model, output.content)


def import_all(folder, uri):
    clip = import_one(folder, "clip", uri)
    results = {"clip": clip}
    for model in MODELS[1:]:
        stands_on = clip if model in ("prior", "decoder") else None
        results[model] = import_one(folder, model, uri, stands_on)
    return results


def test_an_imported_stack_draws_the_pictures_of_the_exported_one(run_uri, folder, tmp_path):
    stages_of_it = RunStages.of(import_all(folder, tmp_path))
    sampling = read_sampling(run_uri)
    ours = UnCLIP.from_run(run_uri, device="cpu")
    again = UnCLIP.from_stages(stages_of_it, sampling, device="cpu")
    texts = ["a red circle", "two blue squares"]
    found, expected = (np.stack(u(texts, seed=3)).astype(int) for u in (again, ours))
    assert found.shape == (2, 64, 64, 3)
    assert np.abs(found - expected).max() <= 1
    for model, process in zip(again.stack.upsamplers, ours.stack.upsamplers, strict=True):
        assert model[0].config.resize == process[0].config.resize
        assert model[1].prediction == process[1].prediction
        assert torch.equal(model[1].alpha_bar, process[1].alpha_bar)
    first = load_upsampler(stages_of_it.upsamplers[1], torch.device("cpu"))
    assert first.degradation.type == "bsr"


def test_weights_that_nothing_is_folded_into_come_back_bit_for_bit(run_uri, folder, tmp_path):
    before, after = read_stack(RunStages.read(run_uri)), import_all(folder, tmp_path)
    files = read_stack(RunStages.of(after))
    pairs = [(before.prior, files.prior), *zip(before.upsamplers, files.upsamplers, strict=True)]
    for old, new in pairs:
        assert old.state.keys() == new.state.keys()
        assert all(torch.equal(new.state[name], tensor) for name, tensor in old.state.items())
    assert files.decoder.config["inputs"] == {"clip": after["clip"].manifest_hash}


def test_a_folder_without_our_record_is_what_its_pipeline_makes_of_it(folder, tmp_path):
    (folder / "export.json").unlink()
    result = import_one(folder, "upsampler_16_32", tmp_path)
    task = read_config(f"{result.uri}/weights.safetensors")["task"]
    assert task["model"]["resize"] == "bicubic"
    assert task["degradation"] == {"type": "blur", "sigma": 0.6}


def test_another_network_of_the_last_step_is_left_out_and_named(folder, tmp_path):
    same = import_one(folder, "upsampler_16_32", tmp_path / "a")
    path = folder / "super_res_last/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.bias"] += 1
    save_file(state, path)
    other = import_one(folder, "upsampler_16_32", tmp_path / "b")
    assert (same.content["left_out"], other.content["left_out"]) == ([], ["super_res_last"])
    assert other.content["weights"] == same.content["weights"]


@pytest.mark.parametrize(
    ("component", "change", "model", "words"),
    [
        ("prior", {"norm_in_type": "layer"}, "prior", ["norm_in_type='layer', ours is None"]),
        ("prior", {"num_layers": None}, "prior", ["num_layers is missing"]),
        ("prior", {"num_embeddings": 70}, "prior", ["(1, 81, 24) for (1, 74, 24)"]),
        ("prior", {"new_trick": True}, "prior", ["new_trick=True, ours is None"]),
        ("decoder", {"class_embed_type": None}, "decoder", ["class_embed_type=None"]),
        ("decoder", {"block_out_channels": [8, 12, 24]}, "decoder", ["multipliers.1=1.5"]),
        ("decoder", {"act_fn": "gelu"}, "decoder", ["decoder is beyond our models: act_fn='gelu'"]),
        ("text_proj", {"cross_attention_dim": 24}, "decoder", ["cross_attention_dim=24"]),
        ("super_res_first", {"freq_shift": 1}, "upsampler_16_32", ["freq_shift=1, ours is 0"]),
        ("super_res_first", {"sample_size": 64}, "upsampler_16_32", ["makes pictures of 64 px"]),
        ("text_encoder", {"hidden_act": "relu"}, "clip", ["hidden_act='relu', ours is 'gelu'"]),
        ("text_encoder", {"vocab_size": 1000}, "clip", ["vocab_size=1000, ours is 49408"]),
    ],
)
def test_what_our_models_cannot_express_is_refused_by_its_key(
    folder, tmp_path, component, change, model, words
):
    path = folder / component / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        import_one(folder, model, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / model).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid', our models know"),
        ({"prediction_type": "flow"}, "prediction_type='flow', our models know epsilon"),
        ({"beta_end": 0.012}, "beta_end=0.012, ours is 1.0"),
    ],
)
def test_other_processes_are_refused(folder, tmp_path, change, words):
    path = folder / "upsampler_32_64/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=words):
        import_one(folder, "upsampler_32_64", tmp_path)


def test_missing_and_further_weights_are_named(folder, tmp_path):
    path = folder / "decoder/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_more.weight"] = state.pop("conv_in.weight")
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        import_one(folder, "decoder", tmp_path)
    assert "missing: decoder.conv_in.weight; unknown: decoder.conv_more.weight" in str(caught.value)


def test_weights_of_torch_are_read_as_tensors_alone(folder, tmp_path):
    path = folder / "prior/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    expected = import_one(folder, "prior", tmp_path / "a").content["weights"]["sha256"]
    path.unlink()
    assert import_one(folder, "prior", tmp_path / "b").content["weights"]["sha256"] == expected


def test_a_prior_for_another_clip_is_refused_before_anything_is_written(run_uri, folder, tmp_path):
    path = folder / "text_encoder/config.json"
    clip = import_one(folder, "clip", tmp_path)
    state = load_file(folder / "text_encoder/model.safetensors")
    name = "text_model.embeddings.position_embedding.weight"
    state[name] = state[name][:40].contiguous()
    save_file(state, folder / "text_encoder/model.safetensors")
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 40}))
    shorter = import_one(folder, "clip", tmp_path / "other")
    import_one(folder, "prior", tmp_path, clip)
    with pytest.raises(CheckpointError, match=r"prior expects a CLIP of .*77.* is .*40"):
        import_one(folder, "prior", tmp_path / "other", shorter)
    assert not (tmp_path / "other" / "prior").exists()


def test_the_runs_other_models_are_asked_whether_they_stand_on_this_clip(folder, tmp_path):
    def check(config):
        raise ValueError(f"no room for {config.embed_dim}")

    with pytest.raises(ConfigError, match=r"imported\.models: clip: no room for 12"):
        import_one(folder, "clip", tmp_path, check=check)


def run_file(folder, tmp_path, **changes):
    values = {
        "name": "imported",
        "output_dir": str(tmp_path / "out"),
        "imported": {"format": "diffusers", "path": str(folder), "models": list(MODELS)},
        "generate": GENERATE,
        **changes,
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    return load_run(RunFile, path)


def test_a_run_plans_imported_models_as_its_stages(folder, tmp_path):
    run = run_file(folder, tmp_path)
    found = {stage.name: stage.inputs for stage in stages(run)}
    assert list(found) == [*MODELS, "generate"]
    assert found["clip"] == ("imported clip",)
    assert found["decoder"] == ("clip", "imported decoder")
    assert found["upsampler_32_64"] == ("imported upsampler_32_64",)
    assert found["generate"] == MODELS
    first = {step.stage.name: step.identity for step in plan(run)}
    moved = run_file(shutil.copytree(folder, tmp_path / "elsewhere"), tmp_path)
    assert {step.stage.name: step.identity for step in plan(moved)} == first
    settings = tmp_path / "elsewhere/upsampler_32_64/unet/config.json"
    settings.write_text(settings.read_text() + "\n")
    after = {step.stage.name: step.identity for step in plan(moved)}
    assert {name for name in first if first[name] != after[name]} == {"upsampler_32_64"}


def test_a_missing_file_is_named_while_planning(folder, tmp_path):
    run = run_file(folder, tmp_path)
    (folder / "prior_scheduler/scheduler_config.json").unlink()
    with pytest.raises(ConfigError, match=r"scheduler_config\.json: no such file"):
        given.hashes(run)
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(ConfigError, match="image_encoder holds no weights"):
        given.hashes(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imported.models": ["decoder", "prior"]}, ["holds no clip", "open_clip"]),
        ({"imported.models": ["decoder"]}, ["holds no clip"]),
        ({"imported.models": ["clip", "decoder", *UPSAMPLERS]}, ["section generate needs prior"]),
        ({"imported.models": ["clip", "prior", *UPSAMPLERS]}, ["generate needs decoder"]),
        ({"imported.models": ["clip", "clip"]}, ["names a model twice"]),
        ({"imported.models": ["unet"]}, ["brings prior, decoder, clip and", "not 'unet'"]),
        ({"imported.format": "karlo"}, ["format karlo brings prior, decoder and", "not 'clip'"]),
        ({"open_clip": {"model": "ViT-B-32", "weights_path": "a"}}, ["has open_clip too"]),
        ({"generate.ablations": {"num_pictures": 1}}, ["no section embed; use 0"]),
        ({"generate.upsamplers": [{}, {}, {}]}, ["has 2 upsamplers"]),
        ({"evaluate": {}}, ["section evaluate needs select"]),
        (
            {"imported.models": [*MODELS[:4], "upsampler_64_256"]},
            ["upsampler_64_256 reads 64 px", "makes 32 px"],
        ),
    ],
)
def test_runs_that_cannot_work_are_refused(folder, tmp_path, changes, words):
    values = {
        "imported": {"format": "diffusers", "path": str(folder), "models": list(MODELS)},
        "generate": dict(GENERATE),
    }
    for name, value in changes.items():
        section, _, key = name.partition(".")
        values[section] = {**values[section], key: value} if key else value
    with pytest.raises(ConfigError) as caught:
        run_file(folder, tmp_path, **values)
    for word in words:
        assert word in str(caught.value)


def test_a_run_exports_what_it_has_and_says_so(run_uri, folder, tmp_path):
    run = run_file(folder, tmp_path, output_dir=run_uri)
    target, said = str(tmp_path / "target"), io.StringIO()

    def exported_as(form, *, dry_run, run=run, target=target):
        return export_run(run, target, form, "0.42.1", Progress(said), dry_run=dry_run)

    looked = exported_as("diffusers", dry_run=True)
    assert not (tmp_path / "target").exists()
    line = exported_as("diffusers", dry_run=False)
    assert set(line["models"]) == set(MODELS)
    assert looked == {name: line[name] for name in looked}
    assert said.getvalue().splitlines() == [f"differs: {d}" for d in line["differences"]] * 2
    with pytest.raises(ConfigError, match="exists"):
        exported_as("open_clip", dry_run=True)
    assert exported_as("open_clip", dry_run=False, target=str(tmp_path / "clip"))["models"]
    with pytest.raises(ConfigError, match=r"run\.json does not exist"):
        exported_as("diffusers", dry_run=True, run=run_file(folder, tmp_path))
