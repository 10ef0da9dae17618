"""Pictures of what jobs did: from the real API, by function, by command and as the documentation has it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from sqlalchemy.orm import Session

from secateur import Client, figures
from secateur.figures.heat import kind_of
from secateur.pictures import PICTURES
from tests import command_line
from tests.app.conftest import Inputs, MakeKey, application, inputs, make_key, project, service  # noqa: F401
from tests.histories import evaluate, fill
from tests.snippets import snippet

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
PNG = b"\x89PNG\r\n\x1a\n"
DENSE, FIRST, SECOND = {"law": 10.0}, {"law": 12.5}, {"law": 15.0}


@pytest.fixture
def client(service: str, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:  # noqa: F811
    """And the environment that names the same server to the command line."""
    key = make_key()
    monkeypatch.setenv("SECATEUR_URL", service)
    monkeypatch.setenv("SECATEUR_API_KEY", key)
    with Client(service, key, retry_seconds=0) as client:
        yield client


@pytest.fixture
def job(client: Client, session: Session, inputs: Inputs) -> str:  # noqa: F811
    """One with two finished stages, as a worker has committed them."""
    id = str(client.submit(inputs.body())["id"])
    fill(session, id, 0, domain="law")
    fill(session, id, 1, domain="code", scale=2.0)
    evaluate(session, id, {0: DENSE, 1: FIRST, 2: SECOND})
    return id


def shown(figure: Figure) -> np.ndarray[Any, Any]:
    """The numbers of a figure's map."""
    (image,) = figure.axes[0].get_images()
    return np.asarray(np.ma.filled(image.get_array(), np.nan))


def test_r_is_shown_with_its_dense_row_and_bwt(client: Client, job: str) -> None:
    evaluation = client.evaluation(job)
    figure = figures.perplexity_matrix(evaluation)
    assert np.exp(shown(figure)).ravel() == pytest.approx([1.0, 1.25, 1.5])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["10.00", "12.50", "15.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dense", "after law", "after code"]
    assert f"BWT {evaluation['bwt']:.2f}" in axes.get_title(loc="left")


def test_sensitivities_and_allocation_are_at_their_blocks(client: Client, job: str) -> None:
    by_block = shown(figures.sensitivity_by_block(client.block_sensitivity(job)))
    assert by_block == pytest.approx(np.array([[3, 7, 11]] * 2) / 21)
    by_matrix = shown(figures.sensitivity_by_matrix(client.sensitivity(job)))
    assert by_matrix == pytest.approx(np.array([[1, 3, 5], [2, 4, 6]]) / 21)
    records = list(client.matrices(job))
    assert shown(figures.allocation(records)) == pytest.approx(np.zeros((2, 3)))
    records[-1] = {**records[-1], "sparsity": 1.0, "zeros": records[-1]["weights"]}
    assert shown(figures.allocation(records))[1, 2] > 0.3


def test_the_curve_is_over_sparsity_with_the_dense_model() -> None:
    results = [{"sparsity": 0.7, "mean_perplexity": 30.0}, {"sparsity": 0.5, "mean_perplexity": 20.0}]
    figure = figures.perplexity_over_sparsity([*results, {"sparsity": None, "mean_perplexity": None}])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0.5, 20.0], [0.7, 30.0]]  # type: ignore[union-attr]


def test_what_is_not_there_is_said(client: Client, job: str) -> None:
    for figure in (
        figures.perplexity_matrix({"domains": [], "rows": []}),
        figures.by_depth([]),
        figures.allocation([]),
        figures.sensitivity_by_block([]),
        figures.perplexity_over_sparsity([]),
        figures.comparison({"evaluation": None, "history": None}),
    ):
        assert figure.axes[0].texts
        assert figures.png(figure).startswith(PNG)


def test_the_same_answers_give_the_same_bytes_whatever_the_users_settings(client: Client, job: str) -> None:
    evaluation, records = client.evaluation(job), list(client.matrices(job))
    first = [figures.png(figures.perplexity_matrix(evaluation)), figures.png(figures.by_depth(records))]
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30, "lines.linewidth": 9}):
        assert [
            figures.png(figures.perplexity_matrix(evaluation)),
            figures.png(figures.by_depth(records)),
        ] == first


def test_a_kind_is_a_matrix_s_name_without_its_block() -> None:
    assert kind_of("model.layers.3.mlp.experts.3.up_proj.weight", 3) == "mlp.experts.3.up_proj"
    assert kind_of("lm_head.weight", 3) == "lm_head"


def test_every_picture_is_drawn_by_the_command(
    client: Client,
    job: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = command_line.call(("plot", "--list", "--json"), monkeypatch, capsys)[1]
    assert set(json.loads(listed)) == set(PICTURES)
    for name in PICTURES:
        others = ("--with", job) if name in ("compare", "curve") else ()
        file = tmp_path / f"{name}.png"
        code, out, err = command_line.call(("plot", job, str(file), *others), monkeypatch, capsys)
        assert code == 0, err
        assert PICTURES[name].shows in out
        assert file.read_bytes().startswith(PNG)
    for wrong in (("plot",), ("plot", job, "x.png", "--figure", "none"), ("plot", job, "compare.png")):
        assert command_line.call(wrong, monkeypatch, capsys)[0] == 2
    code, _, err = command_line.call(("plot", job, str(tmp_path / "none" / "r.png")), monkeypatch, capsys)
    assert (code, "none/r.png: No such file or directory" in err) == (1, True)


def test_the_page_s_examples_run_without_a_display(client: Client, job: str, tmp_path: Path) -> None:
    client.cancel(job)  # so that there is nothing to wait for
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    printed = [
        subprocess.run(
            [sys.executable, "-c", each], cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True
        ).stdout
        for each in examples
    ]
    assert [text.split()[1:] for text in printed] == [[], ["queued", "→", "cancelled"]]
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("r.png", "depth.png"))


def test_the_page_s_commands_draw(
    client: Client,
    job: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in snippet("client.md", "Pictures").splitlines():
        code, _, err = command_line.call(tuple(line.replace("job_…", job).split()[1:]), monkeypatch, capsys)
        assert code == 0, err
    assert {path.name for path in tmp_path.glob("*.png")} == {"r.png", "both.png"}


def test_the_page_names_every_picture() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text(), re.M)
    assert rows == [(name, picture.function) for name, picture in PICTURES.items()]
