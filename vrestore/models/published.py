"""What the field has published, one row a file; nothing of it ships, all of it can be fetched.

Published figures: PSNR in dB and SSIM, no crop; RGB on REDS4, Y elsewhere.
"""

from __future__ import annotations

from typing import Any

from vrestore.models.download import Remote
from vrestore.models.entry import Entry

APACHE = "Apache-2.0"
SPYNET = "Apache-2.0 as published; flow part from SPyNet, for non-commercial research only"
MMAGIC = "https://download.openmmlab.com/mmediting/restorers/"
MMAGIC_PAGE = "https://github.com/open-mmlab/mmagic"
BASICSR_PAGE = "https://github.com/XPixelGroup/BasicSR/blob/master/docs/ModelZoo.md"
PLUSPLUS_PAGE = "https://github.com/ckkelvinchan/BasicVSR_PlusPlus"

X4, DEBLUR, DENOISE, DECOMPRESS = "super-resolution", "deblurring", "denoising", "decompression"


def _mmagic(path: str) -> Remote:
    file = path.rpartition("/")[2]
    return Remote(file, _digits(file), MMAGIC + path, MMAGIC_PAGE)


def _drive(file: str, key: str, sha256: str | None = None, size: int | None = None) -> Remote:
    url = f"https://drive.usercontent.google.com/download?id={key}&export=download&confirm=t"
    return Remote(file, sha256 or _digits(file), url, BASICSR_PAGE, size)


def _digits(file: str) -> str:
    """The eight hex digits of the sha256 that both projects end a file's name with."""
    return file.removesuffix(".pth").rpartition("-")[2]


def _basicvsr(
    name: str, data: str, figure: str, remote: Remote, architecture: str = "BasicVSR"
) -> Entry:
    sizes = {"BasicVSR": 6_291_311, "BasicVSRPlusPlus": 7_322_927, "IconVSR": 8_711_375}
    parameters = sizes[architecture]
    if architecture == "IconVSR" and data == REDS:
        parameters = 8_694_991  # windows of five frames instead of seven
    return Entry(name, architecture, X4, 4, parameters, data, figure, SPYNET, remote=remote)


def _edvr(
    name: str, parameters: int, data: str, figure: str, remote: Remote, task: str = X4
) -> Entry:
    scale = 4 if task == X4 else 1
    return Entry(name, "EDVR", task, scale, parameters, data, figure, APACHE, remote=remote)


REDS, VIMEO_BI, VIMEO_BD = "REDS (BI)", "Vimeo-90K (BI)", "Vimeo-90K (BD)"

# fmt: off
PUBLISHED: tuple[Entry, ...] = (
    _basicvsr("basicvsr-reds4", REDS, "REDS4 31.4170/0.8909", _drive(
        "BasicVSR_REDS4-543c8261.pth", "1wLWdz18lWf9Z7lomHPkdySZ-_GV2920p",
        "543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc", 25_234_632)),
    _basicvsr("basicvsr-vimeo-bi", VIMEO_BI, "Vimeo-90K-T 37.2026/0.9434", _drive(
        "BasicVSR_Vimeo90K_BIx4-2a29695a.pth", "1ykIu1jv5wo95Kca2TjlieJFxeV4VVfHP",
        "2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401", 25_234_632)),
    _basicvsr("basicvsr-vimeo-bd", VIMEO_BD, "Vimeo-90K-T 37.5501/0.9499", _drive(
        "BasicVSR_Vimeo90K_BDx4-e9bf46eb.pth", "1baaf4RSpzs_zcDAF_s2CyArrGvLgmXxW",
        "e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e", 25_234_632)),
    _basicvsr("basicvsr-reds4-mmagic", REDS, "REDS4 31.4170/0.8909",
              _mmagic("basicvsr/basicvsr_reds4_20120409-0e599677.pth")),
    _basicvsr("basicvsr-vimeo-bi-mmagic", VIMEO_BI, "Vimeo-90K-T 37.2026/0.9434",
              _mmagic("basicvsr/basicvsr_vimeo90k_bi_20210409-d2d8f760.pth")),
    _basicvsr("basicvsr-vimeo-bd-mmagic", VIMEO_BD, "Vimeo-90K-T 37.5501/0.9499",
              _mmagic("basicvsr/basicvsr_vimeo90k_bd_20210409-0154dd64.pth")),
    _basicvsr("iconvsr-reds4", REDS, "REDS4 31.6926/0.8951",
              _mmagic("iconvsr/iconvsr_reds4_20210413-9e09d621.pth"), "IconVSR"),
    _basicvsr("iconvsr-vimeo-bi", VIMEO_BI, "Vimeo-90K-T 37.3729/0.9467",
              _mmagic("iconvsr/iconvsr_vimeo90k_bi_20210413-7c7418dc.pth"), "IconVSR"),
    _basicvsr("iconvsr-vimeo-bd", VIMEO_BD, "Vimeo-90K-T 37.7573/0.9517",
              _mmagic("iconvsr/iconvsr_vimeo90k_bd_20210414-5f38cb34.pth"), "IconVSR"),
    _basicvsr("iconvsr-reds4-basicsr", REDS, "REDS4 31.6926/0.8951", _drive(
        "IconVSR_REDS-aaa5367f.pth", "1b8ir754uIAFUSJ8YW_cmPzqer19AR7Hz"), "IconVSR"),
    _basicvsr("iconvsr-vimeo-bi-basicsr", VIMEO_BI, "Vimeo-90K-T 37.3729/0.9467", _drive(
        "IconVSR_Vimeo90K_BIx4-35fec07c.pth", "1lWUB36ERjFbAspr-8UsopJ6xwOuWjh2g"), "IconVSR"),
    _basicvsr("iconvsr-vimeo-bd-basicsr", VIMEO_BD, "Vimeo-90K-T 37.7573/0.9517", _drive(
        "IconVSR_Vimeo90K_BDx4-cfcb7e00.pth", "13lp55s-YTd-fApx8tTy24bbHsNIGXdAH"), "IconVSR"),
    _basicvsr("basicvsrpp-reds4", REDS, "REDS4 32.3855/0.9069", _mmagic(
        "basicvsr_plusplus/basicvsr_plusplus_c64n7_8x1_600k_reds4_20210217-db622b2f.pth"),
        "BasicVSRPlusPlus"),
    _basicvsr("basicvsrpp-vimeo-bi", VIMEO_BI, "Vimeo-90K-T 37.7864/0.9500", _mmagic(
        "basicvsr_plusplus/basicvsr_plusplus_c64n7_8x1_300k_vimeo90k_bi_20210305-4ef437e2.pth"),
        "BasicVSRPlusPlus"),
    _basicvsr("basicvsrpp-vimeo-bd", VIMEO_BD, "Vimeo-90K-T 38.2054/0.9550", _mmagic(
        "basicvsr_plusplus/basicvsr_plusplus_c64n7_8x1_300k_vimeo90k_bd_20210305-ab315ab1.pth"),
        "BasicVSRPlusPlus"),
    Entry("basicvsrpp-ntire-vsr", "BasicVSRPlusPlus", X4, 4, 43_780_463, REDS, "", SPYNET,
              remote=_mmagic("basicvsr_plusplus/"
                      "basicvsr_plusplus_c128n25_ntire_vsr_20210311-1ff35292.pth")),
    *(
        Entry(f"basicvsrpp-decompress-{track}", "BasicVSRPlusPlus", DECOMPRESS, 1, 44_075_631,
                  f"NTIRE 2021 LDV, track {track}", "", SPYNET,
                  remote=_mmagic("basicvsr_plusplus/basicvsr_plusplus_c128n25_ntire_decompress_"
                          f"track{track}_{end}.pth"))
        for track, end in ((1, "20210223-7b2eba02"), (2, "20210314-eeae05e6"),
                           (3, "20210304-6daf4a40"))
    ),
    *(
        Entry(f"basicvsrpp-{name.replace('_', '-')}", "BasicVSRPlusPlus", task, 1, 9_760_175,
                  data, "", SPYNET,
                  remote=Remote(f"basicvsr_plusplus_{name}-{digits}.pth", digits, None,
                                PLUSPLUS_PAGE))
        for name, digits, task, data in (
            ("deblur_dvd", "ecd08b7f", DEBLUR, "DVD"),
            ("deblur_gopro", "3c5bb9b5", DEBLUR, "GoPro"),
            ("denoise", "28f6920c", DENOISE, "Gaussian noise of sigma 0 to 50"),
        )
    ),
    Entry("realbasicvsr", "RealBasicVSR", X4, 4, 6_294_834, "REDS, second-order degradation",
              "VideoLQ NIQE 3.7662", SPYNET, remote=_mmagic(
                  "real_basicvsr/realbasicvsr_c64b20_1x30x8_lr5e-5_150k_reds_20211104-52f77c2c.pth"),
              told={"dynamic_refine_thres": 5}),
    Entry("realbasicvsr-wogan", "RealBasicVSR", X4, 4, 6_294_834,
              "REDS, second-order degradation", "", SPYNET, remote=_mmagic("real_basicvsr/"
                  "realbasicvsr_wogan_c64b20_2x30x8_lr1e-4_300k_reds_20211027-0e2ff207.pth"),
              told={"dynamic_refine_thres": 1.5}),
    _edvr("edvr-m-reds4", 3_300_131, REDS, "REDS4 30.53/0.8699", _drive(
        "EDVR_M_x4_SR_REDS_official-32075921.pth", "1dd6aFj-5w2v08VJTq5mS9OFsD-wALYD6")),
    _edvr("edvr-m-wotsa-reds4", 2_996_259, REDS, "", _drive(
        "EDVR_M_woTSA_x4_SR_REDS_official-1edf645c.pth", "1C_WdN-NyNj-P7SOB5xIVuHl4EBOwd-Ny")),
    _edvr("edvr-l-reds4", 20_633_827, REDS, "REDS4 31.09/0.8800", _drive(
        "EDVR_L_x4_SR_REDS_official-9f5f5039.pth", "127KXEjlCwfoPC1aXyDkluNwr9elwyHNb")),
    _edvr("edvr-l-vimeo", 20_699_363, VIMEO_BI, "Vid4 27.35/0.8264", _drive(
        "EDVR_L_x4_SR_Vimeo90K_official-162b54e4.pth", "1aVR3lkX6ItCphNLcT7F5bbbC484h4Qqy")),
    _edvr("edvr-l-srblur-reds4", 23_306_851, "REDS (blur and BI)", "REDS4 28.88/0.8361", _drive(
        "EDVR_L_x4_SRblur_REDS_official-983d7b8e.pth", "1GZz_87ybR8eAAY3X2HWwI3L6ny7-5Yvl")),
    _edvr("edvr-l-deblur-reds4", 23_602_019, "REDS (blur)", "REDS4 34.80/0.9487", _drive(
        "EDVR_L_deblur_REDS_official-ca46bd8c.pth", "1_ma2tgHscZtkIY2tEJkVdU-UP8bnqBRE"), DEBLUR),
    _edvr("edvr-l-deblurcomp-reds4", 23_602_019, "REDS (blur and compression)",
          "REDS4 30.24/0.8567", _drive("EDVR_L_deblurcomp_REDS_official-0e988e5c.pth",
                                       "1fEoSeLFnHSBbIs95Au2W197p8e4ws4DW"), DEBLUR),
    _edvr("edvr-m-reds4-mmagic", 3_300_131, REDS, "REDS4 30.4194/0.8684",
          _mmagic("edvr/edvrm_x4_8x4_600k_reds_20210625-e29b71b5.pth")),
    _edvr("edvr-m-wotsa-reds4-mmagic", 2_996_259, REDS, "REDS4 30.3430/0.8664",
          _mmagic("edvr/edvrm_wotsa_x4_8x4_600k_reds_20200522-0570e567.pth")),
    _edvr("edvr-l-reds4-mmagic", 20_633_827, REDS, "REDS4 31.0467/0.8793",
          _mmagic("edvr/edvrl_c128b40_8x8_lr2e-4_600k_reds4_20220104-4509865f.pth")),
    _edvr("edvr-l-wotsa-reds4-mmagic", 19_419_875, REDS, "REDS4 31.0010/0.8784",
          _mmagic("edvr/edvrl_wotsa_c128b40_8x8_lr2e-4_600k_reds4_20211228-d895a769.pth")),
)
# fmt: on


def told_of(file: str) -> dict[str, Any]:
    """What a published file's shapes do not tell, by its name; nothing for any other file."""
    entries = (entry for entry in PUBLISHED if entry.remote and entry.remote.file == file)
    return dict(next((entry.told for entry in entries), {}))
