"""Which network a run trains, from which weights, and which of them learn."""

import copy
import dataclasses

import pytest
import torch
from networks import (
    moving_clip,
    small_basicvsr,
    small_edvr,
    small_iconvsr,
    small_realbasicvsr,
)
from torch.nn import functional as F
from train_material import SIZES, tiny_config

from vrestore.errors import ModelError, UsageError
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.layers import ConvResidualBlocks
from vrestore.models.temporal import Seen, WindowNetwork
from vrestore.train.config import FlowWarmUp
from vrestore.train.network import (
    DroppedConv2d,
    begin,
    build_network,
    drop_before_last,
    flow_network,
    forward,
    initialise,
    let_learn,
    middle,
    restored,
    share_flow,
)


def config_of(name, **changes):
    return dataclasses.replace(tiny_config(), network={"name": name, **SIZES[name]}, **changes)


def learning(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", SIZES)
def test_every_network_is_made_by_its_name_and_learns(name):
    torch.manual_seed(0)
    config = config_of(name)
    net = build_network(config.network)
    assert type(net).__module__.endswith(f".{name}")
    assert set(begin(net, config)) == set(net.state_dict())
    clip = torch.rand(2, 5, 3, 16, 16)
    output, _ = forward(net, clip)
    wanted = middle(net, torch.rand(2, 5, 3, 64, 64))
    assert output.shape == wanted.shape
    assert output.shape[1] == (1 if isinstance(net, WindowNetwork) else 5)
    (output - wanted).abs().mean().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", SIZES)
def test_a_whole_clip_is_restored(name):
    torch.manual_seed(0)
    net = build_network({"name": name, **SIZES[name]}).eval()
    clip = torch.rand(7, 3, 16, 20)
    out = restored(net, clip)
    assert out.shape == (7, 3, 64, 80)
    if isinstance(net, WindowNetwork):
        with torch.no_grad():
            assert torch.equal(out[3:4], net(clip[None, 1:6]))


def test_realbasicvsr_is_trained_as_it_restores():
    """Its forward for training gives what the network gives with one cleaning, and the cleaned."""
    net, clip = small_realbasicvsr(), moving_clip(4)[None]
    output, cleaned = forward(net, clip)
    torch.testing.assert_close(output, net(clip), rtol=0, atol=1e-5)
    assert (cleaned - clip).abs().max() > 0
    assert cleaned.shape == clip.shape


def test_offsets_still_look_straight_ahead_after_initialisation():
    config = config_of("edvr")
    net = build_network(config.network)
    begin(net, config)
    assert not net.pcd_align.cas_dcnpack.conv_offset.weight.any()
    assert net.conv_l2_1.weight.any()


def test_unknown_names_and_sizes_are_told_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown name 'basicvsr2'; known: basicvsr, basicvsrpp"):
        build_network({"name": "basicvsr2"})
    with pytest.raises(UsageError, match="did you mean 'num_feat'"):
        build_network({"num_feats": 8})
    with pytest.raises(UsageError, match="cannot be made"):
        build_network({"name": "edvr", "num_frame": 3, "center_frame_idx": 7})


def test_attention_is_added_to_a_run_without_and_learns_alone_at_first(tmp_path):
    path = tmp_path / "wotsa.safetensors"
    before = small_edvr(with_tsa=False)
    save_network(before, path, {})
    sizes = {"num_feat": 8, "deformable_groups": 2, "num_extract_block": 1}
    network = {"name": "edvr", **sizes, "num_reconstruct_block": 1, "weights": str(path)}
    config = dataclasses.replace(tiny_config(), network=network)
    net = build_network(network)
    new = begin(net, config)
    assert new
    assert all(name.startswith("fusion.") for name in new)
    assert torch.equal(net.conv_last.weight, before.conv_last.weight)
    o = dataclasses.replace(config.optimiser, new_alone=10)
    let_learn(net, 9, o, new)
    assert learning(net) == set(new)
    let_learn(net, 10, o, new)
    assert learning(net) == {name for name, _ in net.named_parameters()}


def test_iconvsr_takes_its_refill_from_an_edvr_and_fixes_it_at_first(tmp_path):
    refill = small_edvr()
    save_network(refill, tmp_path / "edvr.safetensors", {})
    config = config_of("iconvsr")
    network = config.network | {"refill": str(tmp_path / "edvr.safetensors")}
    config = dataclasses.replace(config, network=network)
    net = build_network(network)
    new = begin(net, config)
    assert torch.equal(net.edvr.conv_l2_1.weight, refill.conv_l2_1.weight)
    assert not any(name.startswith("edvr.") for name in new)
    let_learn(net, 0, config.optimiser, new)
    assert not any(name.startswith(("edvr.", "spynet.")) for name in learning(net))
    let_learn(net, config.optimiser.flow_fixed, config.optimiser, new)
    assert "edvr.conv_l2_1.weight" in learning(net)


def test_a_refill_that_was_not_loaded_learns_from_the_start():
    config = config_of("iconvsr")
    net = build_network(config.network)
    let_learn(net, 0, config.optimiser, begin(net, config))
    assert "edvr.conv_l2_1.weight" in learning(net)
    assert not any(name.startswith("spynet.") for name in learning(net))


def test_frrealbasicvsr_takes_its_cleaner_from_a_file_and_fixes_it_at_first(tmp_path):
    sizes = SIZES["frbasicvsr"] | {"name": "frbasicvsr"}
    for name, hr_in in (("cleaner", True), ("weights", False)):
        torch.manual_seed(1)
        before = build_network(sizes | {"hr_in": hr_in})
        save_network(before, tmp_path / f"{name}.safetensors", {})
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("cleaner", "weights")}
    config = config_of("frrealbasicvsr", flow=None)
    config = dataclasses.replace(config, network=config.network | files)
    net = build_network(config.network)
    assert begin(net, config) == ()
    cleaner = load_network(files["cleaner"]).state_dict()
    for key, value in net.cleaner.state_dict().items():
        assert torch.equal(value, cleaner[key])
    let_learn(net, 0, config.optimiser, ())
    assert not any(name.startswith(("cleaner.", "spynet.")) for name in learning(net))
    let_learn(net, config.optimiser.flow_fixed, config.optimiser, ())
    assert "cleaner.conv_hr.weight" in learning(net)
    network = SIZES["frbasicvsr"] | {"name": "frbasicvsr"} | files
    other = dataclasses.replace(config, network=network)
    with pytest.raises(UsageError, match="a part of frrealbasicvsr alone"):
        begin(build_network(other.network), other)


def test_a_cleaner_that_nothing_knew_gets_the_flow_that_was_taught(tmp_path):
    config = config_of("frrealbasicvsr")
    net = build_network(config.network)
    new = begin(net, config)
    net.spynet.basic_module[0].basic_module[0].weight.data += 1
    before = copy.deepcopy(net.cleaner.spynet.state_dict())
    share_flow(net, [name for name in new if not name.startswith("cleaner.")])
    assert all(torch.equal(v, before[k]) for k, v in net.cleaner.spynet.state_dict().items())
    share_flow(net, new)
    for key, value in net.spynet.state_dict().items():
        assert torch.equal(net.cleaner.spynet.state_dict()[key], value)


def test_a_given_flow_network_replaces_the_warm_up(tmp_path):
    flow = small_basicvsr().spynet
    save_network(flow, tmp_path / "flow.safetensors", {})
    plan = dataclasses.replace(tiny_config().flow, weights=tmp_path / "flow.safetensors")
    config = config_of("basicvsrpp", flow=plan)
    net = build_network(config.network)
    new = begin(net, config)
    assert not any("spynet." in name for name in new)
    for key, value in flow.state_dict().items():
        assert torch.equal(flow_network(net).state_dict()[key], value)


def test_weights_of_other_sizes_or_of_another_network_are_refused(tmp_path):
    save_network(small_basicvsr(), tmp_path / "small.safetensors", {})
    sizes = SIZES["basicvsr"] | {"num_feat": 16, "weights": str(tmp_path / "small.safetensors")}
    config = dataclasses.replace(tiny_config(), network=sizes)
    with pytest.raises(ModelError, match=r"give \[network\] the sizes"):
        begin(build_network(sizes), config)
    other = SIZES["realbasicvsr"] | {"weights": str(tmp_path / "small.safetensors")}
    config = dataclasses.replace(tiny_config(), network={"name": "realbasicvsr", **other})
    with pytest.raises(ModelError, match="nothing in common with RealBasicVSR"):
        begin(build_network(config.network), config)


def test_a_same_size_network_begins_with_the_luma_of_its_blocks():
    """Its first four, but for some noise: else pixels have to be found in mixed channels."""
    net = build_network(
        {"name": "frbasicvsr", **SIZES["frbasicvsr"], "hr_in": True, "num_feat": 20}
    )
    torch.manual_seed(0)
    initialise(net)
    frame = torch.rand(1, 3, 16, 20)
    luma = (frame * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    _, _, _, blocks, _ = net.encode(Seen((frame,) * 3, 0, True, 0))
    carried = torch.zeros(1, 4 + 4 + 20, 8, 10)
    for trunk in (net.backward_trunk, net.forward_trunk):
        found = trunk.main[0](torch.cat((blocks, carried), 1))[:, :4].detach()
        wanted = F.pixel_unshuffle(luma, 2)
        assert (found - wanted).std() < 0.5 * wanted.std()
        assert torch.corrcoef(torch.stack((found.flatten(), wanted.flatten())))[0, 1] > 0.9


@pytest.mark.parametrize("with_tsa", [True, False])
def test_an_edvr_begins_by_handing_features_on_and_painting_nothing(with_tsa):
    net = build_network(
        {"name": "edvr", "num_feat": 16, "deformable_groups": 4, "with_tsa": with_tsa}
    )
    torch.manual_seed(0)
    initialise(net)
    clip = torch.rand(1, 5, 3, 12, 16)
    bilinear = F.interpolate(clip[:, 2], scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(net(clip), bilinear)
    features = torch.rand(1, 16, 12, 16)
    for pack in [*net.pcd_align.dcn_pack.values(), net.pcd_align.cas_dcnpack]:
        assert (pack(features, features) - features).std() < 0.4 * features.std()
    if with_tsa:
        attn = [net.fusion.spatial_attn5, net.fusion.spatial_attn_add2]
        assert all(not conv(features).any() for conv in attn)


@pytest.mark.parametrize("flow", [None, FlowWarmUp()])
def test_a_flow_network_that_nothing_teaches_is_refused(flow):
    config = config_of("basicvsr", flow=flow)
    with pytest.raises(UsageError, match=r"\[flow\] is missing"):
        begin(build_network(config.network), config)


def test_a_window_network_is_compared_with_its_middle_frame():
    truth = torch.arange(5.0).view(1, 5, 1, 1, 1)
    assert middle(small_edvr(), truth).flatten().tolist() == [2]
    assert middle(small_edvr(center_frame_idx=0), truth).flatten().tolist() == [0]
    assert middle(small_basicvsr(), truth) is truth


def test_a_window_network_needs_whole_windows():
    with pytest.raises(UsageError, match="sees 5 frames, not 3"):
        middle(small_edvr(), torch.zeros(1, 3, 3, 8, 8))


@pytest.mark.parametrize("make", [small_basicvsr, small_iconvsr, small_realbasicvsr])
def test_dropout_drops_before_the_last_convolution_in_training_alone(make):
    net, clip = make(), moving_clip(3)
    expected, names = net(clip), list(net.state_dict())
    drop_before_last(net, 0.5)
    assert list(net.state_dict()) == names
    assert torch.equal(net.eval()(clip), expected)
    torch.manual_seed(0)
    first = net.train()(clip)
    assert not torch.equal(first, expected)
    torch.manual_seed(0)
    assert torch.equal(net(clip), first)


def test_dropout_leaves_a_cleaner_as_it_is():
    net = build_network({"name": "frrealbasicvsr", **SIZES["frrealbasicvsr"]})
    drop_before_last(net, 0.5)
    dropped = [name for name, m in net.named_modules() if isinstance(m, DroppedConv2d)]
    assert dropped == ["conv_last"]


def test_dropout_needs_a_last_convolution():
    with pytest.raises(UsageError, match="conv_last"):
        drop_before_last(ConvResidualBlocks(3, 4, 1), 0.5)
