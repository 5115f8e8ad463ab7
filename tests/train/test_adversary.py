"""Perceptual and adversarial losses, and the discriminator, equal the official ones."""

import json

import numpy as np
import pytest
import torch
from golden import assert_equals_golden, filled, golden_case, shared_file
from train_material import tiny_vgg

from vrestore.errors import ModelError, UsageError
from vrestore.train.config import Perceptual
from vrestore.train.discriminator import UNetDiscriminator
from vrestore.train.losses import charbonnier, discriminator_losses, generator_loss, l1
from vrestore.train.perceptual import CONVOLUTIONS, PerceptualLoss, convolution_places

FORMS = ("vanilla", "lsgan", "hinge")
REAL_ESRGAN = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


@pytest.fixture(scope="module")
def losses():
    with np.load(shared_file("golden/losses.npz")) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_pixel_losses_are_the_official_ones(losses):
    a, b = losses["in.pred"].requires_grad_(), losses["in.target"]
    close(l1(a, b), losses["l1_mean"])
    close(charbonnier(a, b, 1e-6), losses["charbonnier_mean_eps1e-06"])
    charbonnier(a, b).backward()
    close(a.grad, losses["charbonnier_mean_grad"])


@pytest.mark.parametrize("form", FORMS)
def test_adversarial_losses_are_the_official_ones(losses, form):
    real, fake = losses["in.real"], losses["in.fake"]
    right, caught = discriminator_losses(form, real, fake)
    close(right, losses[f"gan_{form}_d_real"])
    close(caught, losses[f"gan_{form}_d_fake"])
    close(0.1 * generator_loss(form, fake), losses[f"gan_{form}_g_w0.1"])


def test_the_relativistic_loss_is_the_official_one(losses):
    real, fake = losses["in.real"], losses["in.fake"]
    right, caught = discriminator_losses("relativistic", real, fake)
    close(right, losses["ragan_d_real"])
    close(caught, losses["ragan_d_fake"])
    close(0.1 * generator_loss("relativistic", fake, real), losses["ragan_g_w0.1"])


@pytest.mark.parametrize("form", [*FORMS, "relativistic"])
def test_both_sides_pull_scores_apart(form):
    real, fake = (torch.zeros(2, 1, 4, 4, requires_grad=True) for _ in range(2))
    sum(discriminator_losses(form, real, fake)).backward()
    if form == "lsgan":  # is content with zero for what was made
        assert fake.grad.abs().max() == 0
    else:
        assert fake.grad.min() > 0
    assert real.grad.max() < 0
    fake.grad = None
    generator_loss(form, fake, real.detach()).backward()
    assert fake.grad.max() < 0


@pytest.mark.parametrize("name", ["unet_disc_sn", "unet_disc_sn_noskip", "unet_disc_sn_mmagic"])
def test_the_discriminator_equals_the_official_one(name):
    case = golden_case(name)
    assert_equals_golden(case, discriminator_of(case).eval()(case.inputs["x"]), "y")


def test_a_training_forward_moves_the_vectors_as_the_official_one_does():
    case = golden_case("unet_disc_sn_train")
    net = discriminator_of(case).train()
    assert_equals_golden(case, net(case.inputs["x"]), "y")
    after = [key for key in case.outputs if key.startswith("after.")]
    assert len(after) == 16
    for key in after:
        assert_equals_golden(case, net.state_dict()[key.removeprefix("after.")], key)


def test_no_layer_of_the_discriminator_enlarges_what_it_sees():
    """After some power iterations the largest singular value is one."""
    torch.manual_seed(0)
    net, x = UNetDiscriminator(3, 8), torch.rand(1, 3, 16, 16)
    for _ in range(60):
        net(x)
    for layer in (net.conv1, net.conv5):
        matrix = layer.weight_orig.flatten(1)
        largest = layer.weight_u @ matrix @ layer.weight_v
        assert torch.linalg.matrix_norm(matrix / largest, 2).item() == pytest.approx(1, rel=1e-3)


def test_two_forwards_before_one_backward_give_gradients():
    torch.manual_seed(0)
    net = UNetDiscriminator(3, 4)
    (net(torch.rand(1, 3, 8, 8)).mean() - net(torch.rand(1, 3, 8, 8)).mean()).backward()
    assert all(p.grad is not None for p in net.parameters())


def discriminator_of(case):
    args = dict(case.args)
    num_feat = args.get("num_feat", args.get("mid_channels"))
    net = UNetDiscriminator(3, num_feat, args["skip_connection"])
    net.load_state_dict({key.replace("conv_", "conv"): value for key, value in case.state.items()})
    return net


@pytest.fixture(scope="module")
def vgg19():
    """The whole network's shapes, its parameters filled as the golden's were."""
    shapes, c_in = {}, 3
    for name, place in convolution_places().items():
        c_out = min(64 * 2 ** (int(name[4]) - 1), 512)
        shapes[f"features.{place}.weight"] = [c_out, c_in, 3, 3]
        shapes[f"features.{place}.bias"] = [c_out]
        c_in = c_out
    assert sum(CONVOLUTIONS) * 2 == len(shapes)
    return filled(shapes)


def test_the_perceptual_loss_equals_the_official_one(vgg19):
    with np.load(shared_file("golden/perceptual.npz")) as file:
        facts = json.loads(bytes(file["values_json"]))
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "values_json"}
    x, gt = arrays["in.x"], arrays["in.gt"]
    loss = PerceptualLoss(vgg19, REAL_ESRGAN)
    features = loss.features(x)
    for name, feature in features.items():
        channels, places = facts[f"slice.{name}"]
        assert list(feature.shape) == facts[f"shape.{name}"]
        off = feature[:, ::channels, ::places, ::places] - arrays[f"feat.{name}"]
        assert off.abs().max() <= 1e-4 * facts[f"std.{name}"], name
    assert loss(x, gt).item() == pytest.approx(facts["realesrgan_l1"][0], rel=1e-4)
    esrgan = PerceptualLoss(vgg19, {"conv5_4": 1.0})
    assert esrgan(x, gt).item() == pytest.approx(facts["esrgan_conv5_4"][0], rel=1e-4)


def test_perceptual_weights_come_from_a_file_and_do_not_learn(tmp_path):
    torch.save(tiny_vgg(), tmp_path / "vgg.pth")
    loss = PerceptualLoss.load(Perceptual(tmp_path / "vgg.pth", {"conv1_2": 1.0, "conv2_2": 1.0}))
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    loss(picture, torch.rand(1, 3, 16, 16)).backward()
    assert picture.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss(picture, picture).item() == 0


def test_what_is_no_vgg19_is_told(tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="no VGG19"):
        PerceptualLoss.load(Perceptual(tmp_path / "vgg.pth"))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="features"):
        PerceptualLoss.load(Perceptual(tmp_path / "other.pth"))
    with pytest.raises(UsageError, match="conv1_9"):
        PerceptualLoss(tiny_vgg(), {"conv1_9": 1.0})
