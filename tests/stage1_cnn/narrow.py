"""Narrow vision transformers in timm's registry, built as DINOv2, DINOv3 and SigLIP2 are: no
classifier, and the pooling, size and normalisation of each in timm's own configuration."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

DINOV2, DINOV3, SIGLIP2 = "narrow_dinov2", "narrow_dinov3", "narrow_siglip2"
_NARROW = {"embed_dim": 48, "depth": 2, "num_heads": 3}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_COMMON = {
    "num_classes": 0,
    "pool_size": None,
    "classifier": "head",
    "first_conv": "patch_embed.proj",
}

default_cfgs = generate_default_cfgs(
    {
        f"{DINOV2}.random": {"input_size": (3, 70, 70), **_IMAGENET, **_COMMON},
        f"{DINOV3}.random": {"input_size": (3, 64, 64), **_IMAGENET, **_COMMON},
        f"{SIGLIP2}.random": {
            "input_size": (3, 64, 64),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            **_COMMON,
        },
    }
)


@register_model
def narrow_dinov2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"patch_size": 14, "img_size": 70, "init_values": 1e-5, **_NARROW}
    return build_model_with_cfg(VisionTransformer, DINOV2, pretrained, **(options | kwargs))


@register_model
def narrow_dinov3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {
        "patch_size": 16,
        "img_size": 64,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "dynamic_img_size": True,
        "num_reg_tokens": 4,
        "qkv_bias": False,
        "init_values": 1e-5,
        "rope_type": "dinov3",
        "use_fc_norm": False,
        **_NARROW,
    }
    return build_model_with_cfg(Eva, DINOV3, pretrained, **(options | kwargs))


@register_model
def narrow_siglip2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {
        "patch_size": 16,
        "img_size": 64,
        "class_token": False,
        "global_pool": "map",
        **_NARROW,
    }
    return build_model_with_cfg(VisionTransformer, SIGLIP2, pretrained, **(options | kwargs))
