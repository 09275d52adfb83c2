"The picture networks that are too heavy for a chapter."
import pytest
import torch
from deepfake_nb.detect.cnn import FaceCNN, load_detector, save_detector
from deepfake_nb.train import PairLoss

SIZES = {"efficientnet_b0": 4008942, "legacy_xception": 20809730, "inception_v3": 21788386, "two_branch:tf_efficientnet_lite0": 3920522}


@pytest.mark.parametrize("arch", SIZES)
def test_contract(arch, tmp_path):
    torch.manual_seed(0)
    model, x = FaceCNN(arch), torch.rand(4, 3, 128, 128)
    assert sum(p.numel() for p in model.parameters()) == SIZES[arch]
    logits, plane = model.with_mask(x)
    PairLoss()((logits, plane), torch.tensor([0.0, 1, 0, 1]), torch.rand(4, 1, 16, 16)).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.eval()
    save_detector(tmp_path / "w.safetensors", model, {}, {})
    again = load_detector(FaceCNN, tmp_path / "w.safetensors")[0]
    with torch.inference_mode():
        assert model(x).shape == (4,) and torch.equal(model(x), model(x)) and torch.equal(again(x), model(x))
        assert model.signature(x).shape == (4, model.width + 12)
