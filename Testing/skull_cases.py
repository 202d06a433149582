"""What the tests of reading and checking skulls share: grids of every kind, and refusals."""

import numpy as np
import pytest
from MedShapeCore.errors import RefusedInput
from synthetic import turned


def refusal(call, *arguments, **options):
    with pytest.raises(RefusedInput) as caught:
        call(*arguments, **options)
    assert caught.value.message.endswith(".") and caught.value.hint
    return caught.value


def tilted():
    axes = np.eye(3)
    axes[1, 2] = np.tan(np.deg2rad(24))  # the strongest gantry tilt of the real skulls
    return axes


AXES = {
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "oblique": turned(35, (1, 2, 3))[:3, :3],
    "sheared": tilted(),
}
