"""The teacher alone, in a plain PyTorch loop and, where it is installed, in Lightning: `python plain_loop.py`.

Shapes: B images, D features, K classes.
"""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman import Teacher


def network() -> nn.Module:
    """Build any network with batch norms."""
    return nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5))


def views(steps: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return two noisy views of random images, ``(B, D)`` each, for each step."""
    generator = torch.Generator().manual_seed(seed)
    x_SBD = torch.randn(steps, 32, 20, generator=generator)
    noise_2SBD = 0.1 * torch.randn(2, steps, 32, 20, generator=generator)
    return list(zip(x_SBD + noise_2SBD[0], x_SBD + noise_2SBD[1], strict=True))


def consistency(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Return the mean squared difference of class probabilities."""
    return F.mse_loss(student_BK.softmax(1), teacher_BK.softmax(1))


def plain_loop(steps: int = 50) -> Teacher:
    """Train a student towards an EMAN teacher."""
    student = network()
    teacher = Teacher(student, scheme="eman", momentum=0.99)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for first_BD, second_BD in views(steps):
        loss = consistency(student(first_BD), teacher(second_BD))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(student)  # parameters by Eq. (1), statistics by Eq. (9)
    return teacher


def with_lightning(steps: int = 50) -> Teacher:
    """Do the same in Lightning: the teacher is a part of the module, and moves after each batch."""
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = network()
            self.teacher = Teacher(self.student, scheme="eman", momentum=0.99)

        def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
            first_BD, second_BD = batch
            return consistency(self.student(first_BD), self.teacher(second_BD))

        def on_train_batch_end(self, *_: object) -> None:
            self.teacher.update(self.student)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.student.parameters(), lr=0.1)

    module = Module()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet).fit(
        module, torch.utils.data.DataLoader(views(steps), batch_size=None)
    )
    return module.teacher


if __name__ == "__main__":
    images = torch.randn(8, 20)
    for loop in [plain_loop, *([with_lightning] if find_spec("pytorch_lightning") else [])]:
        teacher = loop()
        alone, together = teacher(images[:1]), teacher(images)[:1]
        print(f"{loop.__name__}: an image's output ignores its batch mates: {torch.allclose(alone, together)}")
