from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.runtime.torch_module import TorchSession


def test_a_module_is_run_in_eval_mode_outside_autograd():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Net(torch.nn.Module):
        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    session = TorchSession(Net().train(), scale=2, min_hw=(4, 4))
    x = np.random.default_rng(0).random((1, 3, 5, 6), dtype=np.float32)
    assert np.array_equal(session.run(x), x.repeat(2, axis=2).repeat(2, axis=3))
    assert (session.backend, session.precision, session.backend_version) == (
        "torch",
        "fp32",
        torch.__version__,
    )
    with pytest.raises(InputError, match="3x6 pixels is too small"):
        session.run(x[:, :, :3])
