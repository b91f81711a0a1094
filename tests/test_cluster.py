"""What is said where no cluster answers."""

import pytest

from eman.platform.cluster import cluster
from eman.platform.errors import UserError


def test_an_absent_cluster_is_named_at_once_and_nothing_unsafe_is_recommended() -> None:
    with pytest.raises(UserError, match="no Ray cluster answers there") as caught, cluster("127.0.0.1:9"):
        pytest.fail("there is none")
    message = str(caught.value)
    assert "\n" not in message
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_AUTH_MODE=token ray start --head" in message
    assert "leave --address out" in message
