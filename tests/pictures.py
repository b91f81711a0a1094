"""Take the pictures of MLflow's UI in docs/, in Chromium, of the newest sweep of a work folder.

Usage: pictures.py HOME [FOLDER]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from test_ui import EMAN, UI, open_browser

from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODEL = "example"


def take(page: "Page", address: str, words: str, out: Path) -> None:
    """Write the picture of a page that shows these words."""
    page.goto(address)
    page.reload()  # the UI keeps its state between addresses that differ after the #
    page.get_by_text(words).first.wait_for()
    page.wait_for_timeout(4000)  # charts draw themselves step by step
    page.screenshot(path=out)
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)  # a third of the size
    print(out, f"{out.stat().st_size / 1024:.0f} KiB", flush=True)


def main() -> None:
    home = Path(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / "docs")
    store = Store(Workspace(home=str(home)))
    [sweep] = store.records(SWEEP, limit=1)
    runs = [
        r for r in store.records(TRAINING, parent=sweep.run_id) if (r.tags["scheme"], r.status) == ("BN / EMAN", "done")
    ]
    command = [*EMAN, "runs", "register", runs[0].key, "--name", MODEL, "--alias", "champion"]
    subprocess.run(command, check=True, env={**os.environ, "EMAN_HOME": str(home)})
    ui = UI(home)
    server = ui.link("all runs").split("/#/")[0]
    experiment = ui.link("tables").split("/runs/")[0]
    try:
        with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as page:
            page.goto(ui.link("all runs"))
            page.get_by_text("MLflow Assistant").wait_for()
            page.get_by_label("Close").first.click()  # it opens at a browser's first visit
            take(page, ui.link("schemes of MoCo"), "schemes compared", folder / "mlflow-compare.png")
            take(page, ui.link("tables"), "Schemes compared", folder / "mlflow-sweep.png")
            run = f"{experiment}/runs/{runs[0].run_id}?workflowType=machine_learning"
            take(page, run, "student-last", folder / "mlflow-run.png")
            take(
                page,
                f"{server}/#/models/{MODEL}?workflowType=machine_learning",
                "champion",
                folder / "mlflow-model.png",
            )
    finally:
        ui.stop()


if __name__ == "__main__":
    main()
