"""Training steps of one library's networks, in an interpreter of its own.

``python train_step_side.py '<settings>'`` builds one network on random inputs, tells its
parameters, and per line of its standard input takes as many steps as the line says and answers with
seconds and the peak of memory above what the process held before the network was there. A step is
forward, squared error, backward, clipping, torch's fused AdamW and an average of the weights by
torch's ``_foreach_lerp_``: peers are spared optimisers and averages of their own, which are slower.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED_DIM, CONTEXT_LENGTH, IMAGE_PX, HEAD_WIDTH, CONTEXT_WIDTH = 512, 77, 64, 64, 256
MULTIPLIERS, RES_BLOCKS = (1, 2, 3, 4), 2
Built = tuple[nn.Module, Callable[[dict[str, Tensor]], Tensor]]
"""A network, and how it is run on a batch."""


def main(settings: dict[str, Any]) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    device = torch.device(settings["device"])
    batch = {name: value.to(device) for name, value in inputs(settings).items()}
    before = _bytes_now(device)
    network, forward = BUILDERS[settings["side"], settings["network"]](settings)
    network = network.to(device).train()
    step = _stepper(network, forward, batch, device)
    step()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(json.dumps({"parameters": parameters}), flush=True)
    for line in sys.stdin:
        _forget_peak(device)
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        told = {
            "seconds": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu_started,
            "bytes": _peak_bytes(device) - before,
        }
        print(json.dumps(told), flush=True)


def inputs(settings: dict[str, Any]) -> dict[str, Tensor]:
    """One batch of what either network reads; captions have ``settings["tokens"]`` tokens."""
    num, tokens = settings["batch"], settings["tokens"]
    mask = (torch.arange(CONTEXT_LENGTH) < tokens).expand(num, -1)
    return {
        "x_t": torch.randn(num, 3, IMAGE_PX, IMAGE_PX),
        "eps": torch.randn(num, 3, IMAGE_PX, IMAGE_PX),
        "t": torch.randint(1000, (num,)),
        "z_t": torch.randn(num, EMBED_DIM),
        "z_img": torch.randn(num, EMBED_DIM),
        "z_txt": torch.randn(num, EMBED_DIM),
        "has_z_img": torch.ones(num, dtype=torch.bool),
        "text_states": torch.randn(num, CONTEXT_LENGTH, EMBED_DIM) * mask[..., None],
        "text_mask": mask,
    }


def _stepper(
    network: nn.Module,
    forward: Callable[[dict[str, Tensor]], Tensor],
    batch: dict[str, Tensor],
    device: torch.device,
) -> Callable[[], None]:
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    live = [parameter.detach() for parameter in parameters]
    average = [parameter.clone() for parameter in live]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            output = forward(batch)
        target = batch["eps"] if output.ndim == 4 else batch["z_img"]
        F.mse_loss(output.float(), target).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, live, 1e-4)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def our_unet(settings: dict[str, Any]) -> Built:
    """The decoder, as exported to diffusers."""
    from pipeline.models.config import ClipShape, DecoderConfig, UNetConfig
    from pipeline.models.presets import build_decoder

    unet = UNetConfig(
        channels=settings["width"],
        multipliers=MULTIPLIERS,
        res_blocks=RES_BLOCKS,
        attention_levels=(1, 2, 3),
        head_width=HEAD_WIDTH,
    )
    clip = ClipShape(embed_dim=EMBED_DIM, text_width=EMBED_DIM)
    model = build_decoder(
        DecoderConfig(clip=clip, image_px=IMAGE_PX, unet=unet, context_width=CONTEXT_WIDTH)
    )
    names = ("x_t", "t", "z_img", "has_z_img", "z_txt")
    return model, lambda batch: model(*(batch[name] for name in names), *_text(settings, batch))


def our_prior(settings: dict[str, Any]) -> Built:
    """The diffusion prior, padding last."""
    from pipeline.models.config import ClipShape, PriorConfig
    from pipeline.models.presets import build_prior

    clip = ClipShape(embed_dim=EMBED_DIM, text_width=EMBED_DIM)
    width, layers = settings["width"], settings["layers"]
    model = build_prior(PriorConfig(clip=clip, width=width, layers=layers, padding="last"))
    names = ("z_t", "t", "z_txt")
    return model, lambda batch: model(*(batch[name] for name in names), *_text(settings, batch))


def _text(settings: dict[str, Any], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """States and mask as our text encoders give them: on a CPU cut behind the longest caption."""
    kept = settings["tokens"] if settings["device"] == "cpu" else CONTEXT_LENGTH
    return batch["text_states"][:, :kept], batch["text_mask"][:, :kept]


def dalle2_unet(settings: dict[str, Any]) -> Built:
    """Attention at 32, 16 and 8 px as in the paper; else what is fastest.

    Its attention is 512 wide as it comes, here in 8 heads of 64 (16 of 32 take a third longer);
    no cosines, a first kernel of 3 pixels instead of 3, 7 and 15, pixel shuffling, nothing
    computed twice. The width of the context, on which hardly any work hangs, makes the parameters
    equal.
    """
    from dalle2_pytorch import Unet

    def build(cond_dim: int) -> nn.Module:
        return Unet(
            dim=settings["width"],
            dim_mults=MULTIPLIERS,
            num_resnet_blocks=RES_BLOCKS,
            self_attn=(False, True, True, True),
            attn_dim_head=HEAD_WIDTH,
            attn_heads=8,
            init_cross_embed=False,
            init_conv_kernel_size=3,
            image_embed_dim=EMBED_DIM,
            text_embed_dim=EMBED_DIM,
            cond_dim=cond_dim,
            cond_on_image_embeds=True,
            cond_on_text_encodings=True,
            max_text_len=CONTEXT_LENGTH,
        )

    model = build(_nearest(build, range(64, 1024, 8), settings["parameters"]))
    return model, lambda batch: model(
        batch["x_t"], batch["t"], image_embed=batch["z_img"], text_encodings=batch["text_states"]
    )


def dalle2_prior(settings: dict[str, Any]) -> Built:
    """Without rotary embeddings, which the paper has not; the depth makes the parameters equal."""
    from dalle2_pytorch import DiffusionPriorNetwork

    def build(depth: int) -> nn.Module:
        return DiffusionPriorNetwork(
            dim=settings["width"],
            depth=depth,
            dim_head=HEAD_WIDTH,
            heads=settings["width"] // HEAD_WIDTH,
            num_timesteps=1000,
            max_text_len=CONTEXT_LENGTH,
            rotary_emb=False,
        )

    model = build(_nearest(build, range(1, 33), settings["parameters"]))
    return model, lambda batch: model(
        batch["z_t"], batch["t"], text_embed=batch["z_txt"], text_encodings=batch["text_states"]
    )


def _nearest(build: Callable[[int], nn.Module], sizes: range, parameters: int) -> int:
    def off(size: int) -> int:
        with torch.device("meta"):
            return abs(sum(each.numel() for each in build(size).parameters()) - parameters)

    return min(sizes, key=off)


def diffusers_unet(settings: dict[str, Any]) -> Built:
    """UnCLIP's decoder and text projection with our sizes: the same function."""
    from diffusers import UNet2DConditionModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    width = settings["width"]
    unet = UNet2DConditionModel(
        sample_size=IMAGE_PX,
        in_channels=3,
        out_channels=3,
        layers_per_block=RES_BLOCKS,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=tuple(width * multiplier for multiplier in MULTIPLIERS),
        cross_attention_dim=CONTEXT_WIDTH,
        class_embed_type="identity",
        attention_head_dim=HEAD_WIDTH,
        resnet_time_scale_shift="scale_shift",
    )
    project = UnCLIPTextProjModel(
        clip_embeddings_dim=EMBED_DIM, time_embed_dim=4 * width, cross_attention_dim=CONTEXT_WIDTH
    )

    def forward(batch: dict[str, Tensor]) -> Tensor:
        context, emb = project(
            image_embeddings=batch["z_img"],
            prompt_embeds=batch["z_txt"],
            text_encoder_hidden_states=batch["text_states"],
            do_classifier_free_guidance=False,
        )
        mask = F.pad(batch["text_mask"], (4, 0), value=True)
        return unet(batch["x_t"], batch["t"], context, class_labels=emb, attention_mask=mask).sample

    return nn.ModuleList([unet, project]), forward


def diffusers_prior(settings: dict[str, Any]) -> Built:
    """UnCLIP's prior with our sizes: the same function."""
    from diffusers import PriorTransformer

    model = PriorTransformer(
        num_attention_heads=settings["width"] // HEAD_WIDTH,
        attention_head_dim=HEAD_WIDTH,
        num_layers=settings["layers"],
        embedding_dim=EMBED_DIM,
        num_embeddings=CONTEXT_LENGTH,
        added_emb_type="prd",
    )
    return (
        model,
        lambda batch: (
            model(
                batch["z_t"], batch["t"], batch["z_txt"], batch["text_states"], batch["text_mask"]
            ).predicted_image_embedding
        ),
    )


BUILDERS = {
    ("ours", "unet"): our_unet,
    ("ours", "prior"): our_prior,
    ("dalle2-pytorch", "unet"): dalle2_unet,
    ("dalle2-pytorch", "prior"): dalle2_prior,
    ("diffusers", "unet"): diffusers_unet,
    ("diffusers", "prior"): diffusers_prior,
}


def _bytes_now(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
