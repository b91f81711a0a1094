"""Answers of a run for images: as typed values, as lines, and as plain values for JSON."""

from dataclasses import dataclass
from typing import Any

from eman.platform.store.records import Record


@dataclass(frozen=True)
class Guess:
    """A class and its weight: a probability, or a share of the votes."""

    label: str
    share: float


@dataclass(frozen=True)
class Neighbour:
    """A training image: its number in the training split, its classes, and the cosine to the image asked for."""

    index: int
    label: str
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        image: The file.
        changes: Changes to it before the network saw it.
        guesses: Classes, the likeliest first.
        neighbours: The nearest training images, if these vote.
    """

    image: str
    changes: tuple[str, ...]
    guesses: tuple[Guess, ...]
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """A run's answers for some images.

    Attributes:
        run: Its record in the store.
        network, selection: Which of its networks.
        dataset: The data set that it was trained on.
        votes: Number of neighbours that vote; ``None`` if a classifier answers.
        images: One answer for each.
    """

    run: Record
    network: str
    selection: str
    dataset: str
    votes: int | None
    images: tuple[Prediction, ...]

    def lines(self, top: int) -> list[str]:
        """Return lines for a person, with at most ``top`` classes and neighbours of each image."""
        how = "probabilities" if self.votes is None else f"votes of the {self.votes} nearest training images"
        lines = [
            f"{self.run.name} ({self.run.key[:8]}): the {self.network} after the {self.selection} epoch, {how} "
            f"({self.dataset})"
        ]
        for one in self.images:
            changes = f"  ({', '.join(one.changes)})" if one.changes else ""
            lines.append(f"{one.image}{changes}")
            guesses = one.guesses[:top]
            width = max(len(guess.label) for guess in guesses)
            for guess in guesses:
                share = (
                    f"{100 * guess.share:5.1f} %" if self.votes is None else f"{guess.share * self.votes:3.0f} votes"
                )
                lines.append(f"  {guess.label:<{width}}  {share}")
            nearest = [f"#{n.index} {n.label} {n.similarity:.3f}" for n in one.neighbours[:top]]
            lines += [f"  nearest: {', '.join(nearest)}"] if nearest else []
        return lines

    def content(self, top: int) -> dict[str, Any]:
        """Return the same as plain values for JSON."""
        weight = "probability" if self.votes is None else "vote_share"
        images = [
            {
                "image": one.image,
                "changes": list(one.changes),
                "classes": [{"class": guess.label, weight: guess.share} for guess in one.guesses[:top]],
            }
            | (
                {}
                if self.votes is None
                else {
                    "neighbours": [
                        {"index": n.index, "class": n.label, "similarity": n.similarity} for n in one.neighbours[:top]
                    ]
                }
            )
            for one in self.images
        ]
        return {
            "run": self.run.key,
            "name": self.run.name,
            "network": self.network,
            "selection": self.selection,
            "dataset": self.dataset,
            "votes": self.votes,
            "images": images,
        }
