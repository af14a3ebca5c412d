"""Records Grad-CAM and LayerCAM of a small DeiT of timm, by PyTorch's hooks, for tests/test_cam.py.

    python -m tests.record_cam

Needs PyTorch and timm, which the tests do without. The weights and images are stored as they were
used; maps are float64, of the first norm of the last block, without the class token.
"""

from pathlib import Path

import numpy as np
import timm
import torch

CLASSES = (4, 0)


def main():
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=12, depth=2, num_heads=3, num_classes=5
    ).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_((tensor + 0.3 * torch.randn_like(tensor)).half())
    weights = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)

    seen = []
    model.double().blocks[-1].norm1.register_forward_hook(lambda *call: seen.append(call[-1]))
    logits = model(images.permute(0, 3, 1, 2).double() / 255)
    (slopes,) = torch.autograd.grad(logits[[0, 1], CLASSES].sum(), seen)
    maps, slopes = (x.detach()[:, 1:].reshape(2, 4, 4, 12) for x in (seen[0], slopes))
    np.savez_compressed(
        Path(__file__).parent / "data/cam.npz",
        images=images.numpy(),
        classes=np.array(CLASSES),
        gradcam=(slopes.mean((1, 2), keepdim=True) * maps).sum(-1).relu().numpy(),
        layercam=(slopes.relu() * maps).sum(-1).relu().numpy(),
        **{f"weights/{name}": value.astype(np.float16) for name, value in weights.items()},
    )


if __name__ == "__main__":
    main()
