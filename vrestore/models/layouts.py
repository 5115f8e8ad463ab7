"""How the field's projects name the same parameters; here everything bears BasicSR's names."""

from __future__ import annotations

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]

# mmediting and mmagic. They wrap a convolution and its activation in a module: hence `.conv`.
_MMAGIC: tuple[tuple[str, Replacement], ...] = (
    # They count the convolutions, BasicSR the activations between them as well.
    (r"(basic_module\.\d+\.basic_module)\.(\d+)\.conv\.", lambda m: f"{m[1]}.{2 * int(m[2])}."),
    (r"\b(backward|forward)_resblocks\.", r"\1_trunk."),
    (r"\bupsample([12])\.upsample_conv\.", r"upconv\1."),
    (r"\bfeat_l([23])_conv([12])\.conv\.", r"conv_l\1_\2."),
    (r"\bpcd_alignment\.", "pcd_align."),
    (r"\b(offset_conv\d\.l\d|feat_conv\.l\d|cas_offset_conv\d)\.conv\.", r"\1."),
    (r"\b(feat_fusion|spatial_attn(?:_l|_add)?\d)\.conv\.", r"\1."),
)

# EDVR's first publication (branch old_version).
_LEGACY: tuple[tuple[str, Replacement], ...] = (
    (r"\bpre_deblur\.", "predeblur."),
    (r"\bconv_first_1\.", "conv_first."),
    (r"\bconv_first_([23])\.", lambda m: f"stride_conv_hr{int(m[1]) - 1}."),
    (r"\bdeblur_L([23])_conv\.", r"stride_conv_l\1."),
    (r"\bRB_L1_(\d)\.", lambda m: f"resblock_l1.{int(m[1]) - 1}."),
    (r"\bRB_L2_(\d)\.", r"resblock_l2_\1."),
    (r"\bRB_L3_1\.", "resblock_l3."),
    (r"\bfea_L([23])_conv([12])\.", r"conv_l\1_\2."),
    (r"\bL(\d)_offset_conv(\d)\.", r"offset_conv\2.l\1."),
    (r"\bL(\d)_dcnpack\.", r"dcn_pack.l\1."),
    (r"\bL(\d)_fea_conv\.", r"feat_conv.l\1."),
    (r"\bconv_offset_mask\.", "conv_offset."),
    (r"\btsa_fusion\.", "fusion."),
    # The two changed places: there the second one embeds the reference frame.
    (r"\btAtt_([12])\.", lambda m: f"temporal_attn{3 - int(m[1])}."),
    (r"\bfea_fusion\.", "feat_fusion."),
    (r"\bsAtt_(\d)\.", r"spatial_attn\1."),
    (r"\bsAtt_L(\d)\.", r"spatial_attn_l\1."),
    (r"\bsAtt_add_(\d)\.", r"spatial_attn_add\1."),
    (r"\brecon_trunk\.", "reconstruction."),
    (r"\bHRconv\.", "conv_hr."),
)

_RENAMES = tuple((re.compile(old), new) for old, new in (*_MMAGIC, *_LEGACY))


def basicsr_name(key: str) -> str:
    """The name of a parameter in BasicSR; names that are its own stay as they are."""
    for pattern, new in _RENAMES:
        key = pattern.sub(new, key)
    return key
