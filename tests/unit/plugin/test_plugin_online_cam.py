"""OnlineCAM: the mean of a map is the score, for every family; what is not linear is refused."""

import pytest
import torch
import torchvision
from torch import nn

from dist_oaa import OnlineCAM, TokenMap, UserError
from small_models import CLASSES, LINEAR, NOT_LINEAR, SIDE, DinoLinear, HalfResNet, Tokens, vit


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def shaken(model: nn.Module) -> nn.Module:
    """With biases and norms that are not those of a beginning."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def logits_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    output = model(x)
    return output["logits"] if isinstance(output, dict) else output


@pytest.mark.parametrize("name", LINEAR)
def test_the_mean_of_the_map_is_the_score(name):
    torch.manual_seed(0)
    model = shaken(LINEAR[name]()).eval()
    logits, cam = OnlineCAM(model)(images())
    assert cam.shape[:2] == (2, CLASSES)
    assert cam.shape[2] * cam.shape[3] > 1
    torch.testing.assert_close(logits, logits_of(model, images()), rtol=0, atol=0)
    scale = max(1e-3, float(cam.abs().max()))
    torch.testing.assert_close(cam.mean((2, 3)) / scale, logits.detach() / scale, rtol=0, atol=1e-5)
    assert cam.flatten(2).std(dim=2).amax(1).min() > 0, "a flat map has the right mean too"


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_no_linear_path_is_said_clearly(name):
    torch.manual_seed(0)
    with pytest.raises(UserError, match="no linear path from features to classes in") as caught:
        OnlineCAM(NOT_LINEAR[name]().eval())(images())
    for way_out in ("layer=", "TokenMap", "ExternalCAM"):
        assert way_out in str(caught.value)


def test_a_zero_head_does_not_hide_a_class_token():
    """Its scores are the same whatever it reads; what it reads is compared."""
    model = vit().eval()
    nn.init.zeros_(model.head.weight)
    with pytest.raises(UserError, match="'head' reads something else than the mean"):
        OnlineCAM(model)(images())


def test_by_hand():
    """Two features, one 2 x 1 map, weights and bias that can be done in the head."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    model[3].weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    model[3].bias.data = torch.tensor([10.0, 20.0])
    x = torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]])
    logits, cam = OnlineCAM(model)(x)
    assert cam.tolist() == [[[[21.0, 27.0]], [[15.0, 13.0]]]]
    assert logits.tolist() == [[24.0, 14.0]]


def test_a_layer_norm_after_the_mean_by_autograd():
    """Its map is the score's first-order expansion with the image's own statistics held."""
    torch.manual_seed(0)
    body, norm, head = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), nn.Linear(6, CLASSES)
    model = shaken(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, head))
    _, cam = OnlineCAM(model)(images(1))
    features = body(images(1)).detach()
    mean = features.mean((2, 3))
    sigma = (mean.var(correction=0) + norm.eps).sqrt()
    centred = features - features.mean(1, keepdim=True)
    scaled = centred / sigma * norm.weight[:, None, None] + norm.bias[:, None, None]
    expected = torch.einsum("cd,bdhw->bchw", head.weight, scaled) + head.bias[:, None, None]
    torch.testing.assert_close(cam, expected.detach(), rtol=1e-4, atol=1e-5)


def test_the_layer_can_be_named():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=CLASSES).eval()
    found = OnlineCAM(model)
    _, expected = found(images())
    assert found.layer_name == "layer4"
    for layer in ("layer4.1", model.layer4):
        _, cam = OnlineCAM(model, layer)(images())
        torch.testing.assert_close(cam, expected)


def test_a_wrong_layer_is_refused():
    model = torchvision.models.resnet18(num_classes=CLASSES)
    with pytest.raises(UserError, match=r"layer is 'layer5', expected a name of"):
        OnlineCAM(model, "layer5")
    with pytest.raises(UserError, match="no part of the model"):
        OnlineCAM(model, nn.ReLU())
    with pytest.raises(UserError, match="after the layer that was named"):
        OnlineCAM(model, "layer3")(images())


def test_training_is_left_alone():
    """The search neither learns nor draws nor changes modes; scores have gradients, maps none."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=CLASSES).train()
    model.layer1.eval()  # frozen, as in fine-tuning
    modes = [module.training for module in model.modules()]
    network = OnlineCAM(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    network._find(images())
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    logits, cam = network(images())
    assert logits.requires_grad
    assert not cam.requires_grad
    torch.testing.assert_close(cam.mean((2, 3)), logits.detach(), rtol=1e-4, atol=1e-5)
    logits.sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert set(network.state_dict()) == {f"model.{key}" for key in model.state_dict()}


def test_dropout_is_left_out_of_the_maps():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.9),
        nn.Linear(8, CLASSES),
    )
    _, cam = OnlineCAM(model)(images())
    _, still = OnlineCAM(model.eval())(images())
    torch.testing.assert_close(cam, still)


def test_other_sizes_than_the_first():
    model = HalfResNet()
    network = OnlineCAM(model)
    network(images())
    logits, cam = network(torch.randn(3, 3, 32, 48))
    assert cam.shape == (3, CLASSES, 8, 12)
    torch.testing.assert_close(cam.mean((2, 3)), logits.detach())


def test_autocast_keeps_the_maps_exact():
    model = HalfResNet()
    network = OnlineCAM(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, cam = network(images())
    assert logits.dtype == torch.bfloat16
    assert cam.dtype == torch.float32
    torch.testing.assert_close(cam.mean((2, 3)), logits.detach().float(), rtol=0.02, atol=0.02)


def test_compiled_and_checkpointed_models():
    class Checkpointed(HalfResNet):
        def forward(self, x):
            kept = torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
            return self.classes(kept.mean((2, 3)))

    torch.manual_seed(0)
    model = Checkpointed()
    network = OnlineCAM(model)
    logits, cam = network(images())
    logits.sum().backward()
    torch.testing.assert_close(cam.mean((2, 3)), logits.detach())
    assert network._seen == {}, "the second pass of the backward was kept"

    plain = HalfResNet()
    compiled = OnlineCAM(torch.compile(plain, backend="eager"))
    for _ in range(2):
        logits, cam = compiled(images())
        torch.testing.assert_close(cam.mean((2, 3)), logits.detach())


def test_a_model_without_scores():
    with pytest.raises(
        UserError, match=r"the model gives \(2, 8, 8, 8\), expected \(B, C\) scores"
    ):
        OnlineCAM(nn.Conv2d(3, 8, 8, 8))(images())


def test_token_maps_lie_where_the_patches_are():
    """A patch that is brighter changes its own cell and no other, whatever tokens come first."""

    class Untouched(Tokens):
        def forward(self, x):
            patches = self.cut(x).flatten(2).transpose(1, 2)
            return torch.cat([self.first.expand(len(x), -1, -1), patches], 1)

    encoder = TokenMap(Untouched())
    x = torch.zeros(1, 3, 32, 64)
    brighter = x.clone()
    brighter[:, :, 16:32, 32:48] = 1
    changed = (encoder(brighter) - encoder(x)).abs().sum(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 2]]


def test_tokens_that_do_not_fit():
    with pytest.raises(UserError, match=r"expected \(B, N, D\) tokens of \(4, 4\) patches"):
        TokenMap(Tokens(), tokens=lambda found: found[:, :5])(images())
    with pytest.raises(UserError, match=r"gives \(2, 5\) for inputs of 64 x 64"):
        TokenMap(DinoLinear())(images())
