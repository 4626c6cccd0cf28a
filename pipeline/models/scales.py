"""Sizes of published systems: Karlo's (frozen ViT-L/14, exportable) and the paper's (Table 3).

Parameters and forward operations are checked by a test; the margin names the published label and
says where it does not follow from the published sizes. Sources: Ramesh et al. 2022 (unCLIP) App. C,
Table 3; Karlo's released configuration; GLIDE §4.1.
"""

from pipeline.models.config import (
    AutoregressivePriorConfig,
    ClipConfig,
    ClipShape,
    DecoderConfig,
    OwnText,
    PriorConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionTowerConfig,
)

KARLO_CLIP = ClipConfig(  # 428 M
    embed_dim=768,
    vision=VisionTowerConfig(image_px=224, patch_px=14, width=1024, layers=24, heads=16),
    text=TextTowerConfig(width=768, layers=12, heads=12),
    quick_gelu=True,
)
_KARLO_SHAPE = ClipShape(embed_dim=768, text_width=768)
KARLO_PRIOR = PriorConfig(  # 1.02 B; 164 GFLOP per forward pass of 77 tokens
    clip=_KARLO_SHAPE, width=2048, layers=20, padding="last"
)
_ADM_64 = UNetConfig(
    channels=320, multipliers=(1, 2, 3, 4), res_blocks=3, attention_levels=(1, 2, 3)
)
"""ADM's U-Net for 64 px: attention at 32, 16 and 8 px."""
KARLO_DECODER = DecoderConfig(  # 0.89 B; 608 GFLOP
    clip=_KARLO_SHAPE, image_px=64, unet=_ADM_64, context_width=1536, learned_variance=True
)
_ADM_256 = UNetConfig(channels=320, multipliers=(1, 2, 3, 4), res_blocks=3, mid_attention=False)
KARLO_UPSAMPLER_64_256 = UpsamplerConfig(  # 0.69 B: without scale and shift
    low_px=64,
    high_px=256,
    unet=_ADM_256.model_copy(update={"scale_shift": False}),
    resize="bicubic",
)

PAPER_CLIP = ClipConfig(  # ViT-H/16; open_clip's ViT-H has the same towers at patches of 14 px
    embed_dim=1024,
    vision=VisionTowerConfig(image_px=256, patch_px=16, width=1280, layers=32, heads=16),
    text=TextTowerConfig(width=1024, layers=24, heads=16),
)
_PAPER_SHAPE = ClipShape(embed_dim=1024, text_width=1024)
# Labelled 1 B; 24 blocks of width 2,048 alone are 1.21 B, and our table of byte pairs 0.10 B.
PAPER_PRIOR = PriorConfig(  # 643 GFLOP
    clip=_PAPER_SHAPE,
    width=2048,
    layers=24,
    text=OwnText(type="own", width=2048, layers=0),
    space="scaled",
    padding="last",
)
PAPER_NUM_COMPONENTS = 319
"""Principal components that the paper keeps of 1,024 (§2.2)."""
# Labelled 1 B; Table 3's two transformers are 1.21 B (captions) and 0.80 B (codes). Its context of
# 384 leaves 63 places for the caption beside 319 codes, z_txt and the dot product.
PAPER_AUTOREGRESSIVE_PRIOR = AutoregressivePriorConfig(
    clip=_PAPER_SHAPE,
    width=1664,
    layers=24,
    text=OwnText(type="own", width=2048, layers=24),
    prefix_tokens=63,
)
PAPER_DECODER = DecoderConfig(  # 3.5 B: a U-Net of 2.24 B (1,530 GFLOP) and a text encoder
    clip=_PAPER_SHAPE,
    image_px=64,
    unet=_ADM_64.model_copy(update={"channels": 512, "dropout": 0.1}),
    context_width=2048,
    text=OwnText(type="own", width=2048, layers=24),
    learned_variance=True,
)
# Labelled 700 M; ADM's scale and shift make it 0.73 B, without them it has 0.69 B.
PAPER_UPSAMPLER_64_256 = UpsamplerConfig(  # 531 GFLOP per crop of 64 px
    low_px=64, high_px=256, unet=_ADM_256.model_copy(update={"dropout": 0.1})
)
# Labelled 300 M; Table 3's channels and blocks make 0.28 B, without scale and shift 0.27 B.
PAPER_UPSAMPLER_256_1024 = UpsamplerConfig(  # 1,240 GFLOP per crop of 256 px
    low_px=256,
    high_px=1024,
    unet=UNetConfig(
        channels=192, multipliers=(1, 1, 2, 2, 4, 4), res_blocks=2, mid_attention=False
    ),
)
