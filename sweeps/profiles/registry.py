"""Profiles by name."""

from eman.platform.errors import named
from eman.platform.registry import Registry
from eman.sweeps.profiles.cifar10 import CIFAR10
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.imagenette import IMAGENETTE
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.quick import QUICK
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.profiles.stl10 import STL10

#: Every profile by name; :func:`register_profile` adds to it.
PROFILES = Registry[Profile]("profile")


def register_profile(profile: Profile) -> None:
    """Add a profile; raise `UserError` if its name is taken, or cannot be a name."""
    PROFILES.add(profile.name, profile)


for _profile in (SMOKE, QUICK, MINI, CIFAR10, STL10, IMAGENETTE, IMAGENET):
    register_profile(_profile)


def profile_named(name: str) -> Profile:
    """Return the profile of that name, or raise `UserError`."""
    return named("profile", name, PROFILES)
