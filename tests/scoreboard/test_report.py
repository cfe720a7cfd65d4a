"""The report: one file that parses, refers to nothing outside, lets no text become HTML, and shows the worst data."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, compare
from pyrovae.data import Observations, Space
from pyrovae.scoreboard.report import to_html
from pyrovae.scoreboard.rows import WORST

D, SIDE = 4, 3
NASTY = 'VAE <script>alert("1")</script> & co'


class Reader(HTMLParser):
    """Checks that every element is closed, and keeps tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def board():
    torch.manual_seed(0)
    vae = VAE(2, (D,), Gaussian("shared"), hidden=(4,)).double()
    data = Observations(noise(30, D), space=Space('<b>"toy"</b>', "real"))
    return compare({NASTY: vae, "PPCA": PPCA(1, (D,))}, data, num_particles=50)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    x = (noise(25, SIDE * SIDE) > 0).double()
    data = Observations(x, space=Space("dots", "boolean"), image_shape=(1, SIDE, SIDE))
    return compare({"VAE": VAE(1, (SIDE * SIDE,), Bernoulli(), hidden=(4,)).double()}, data, num_particles=50)


@pytest.fixture(scope="module")
def page(board):
    stream = BytesIO()
    Figure(figsize=(2, 1)).savefig(stream)
    return to_html(
        board, {"scoreboard": stream.getvalue()}, title=f"All: {NASTY}", details=[("<i>Chosen</i>", "K < 3 & more")]
    )


def test_it_parses_and_is_a_whole_page(page):
    assert page.startswith("<!DOCTYPE html>\n<html lang=")
    reader = read(page)
    assert [reader.tags.count(tag) for tag in ("html", "head", "body", "title", "h1")] == [1] * 5
    assert ("meta", "name", "viewport") in reader.attributes


def test_it_refers_to_nothing_outside(page):
    reader = read(page)
    assert not {"script", "link", "iframe", "object", "a", "base", "form"} & set(reader.tags)
    sources = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not re.search(r"https?:|//\w|url\(|@import|<script", page)


def test_no_text_becomes_html(page):
    reader = read(page)
    assert not {"i", "script"} & set(reader.tags)
    text = "".join(reader.text)
    for said in (NASTY, "<i>Chosen</i>", "K < 3 & more", '<b>"toy"</b>', f"All: {NASTY}"):
        assert said in text


def test_attributes_are_escaped_too(board):
    caption = '" onload="x'
    attributes = read(to_html(board, {caption: b""})).attributes
    assert ("img", "alt", caption) in attributes
    assert "onload" not in {name for _, name, _ in attributes}


def test_pictures_are_part_of_it(page):
    content = re.search(r'src="data:image/png;base64,([^"]+)" alt="Held-out', page)[1]
    assert base64.b64decode(content).startswith(b"\x89PNG\r\n\x1a\n")


def test_it_holds_the_table_and_every_sentence(page, board):
    text = "".join(read(page).text)
    for row in board.rows:
        assert row.meaning in text
        assert f"{row.mean:.2f}" in text
        assert row.figures["data_standard_error"].text(3) in text
    assert all(note in text for note in board.notes())
    assert "No variance lies at its floor." in text


def direct(row):
    return np.argsort(-row.estimate.k_hat.numpy(), kind="stable")[:WORST].tolist()


def test_the_worst_data_are_named_and_written_as_rows_of_numbers(page, board):
    row = next(row for row in board.rows if row.kind == "bound")
    lines = re.findall(r'<tr><th scope="row">datum (\d+)</th>(.*?)</tr>', page)
    assert [int(number) for number, _ in lines] == direct(row)
    for number, cells in lines:
        k_hat, value, _, *x = re.findall(r"<td>(.*?)</td>", cells)
        assert k_hat == f"{row.estimate.k_hat[int(number)]:.2f}"
        assert value == f"{row.log_prob[int(number)]:.2f}"
        np.testing.assert_allclose([float(v) for v in x], board.data.x[int(number)], rtol=1e-3)


def test_images_are_shown(images):
    page = to_html(images, {})
    found = re.findall(r'src="data:image/png;base64,([^"]+)" alt="datum (\d+)"', page)
    assert [int(number) for _, number in found] == direct(images.rows[0])
    for content, number in found:
        pixels = image.imread(BytesIO(base64.b64decode(content)))[..., 0]
        np.testing.assert_allclose(pixels, images.data.x[int(number)].reshape(SIDE, SIDE))


def test_exact_figures_have_no_weights_to_look_at(board):
    exact = compare({"PPCA": board.models["PPCA"]}, board.data)
    assert "No figure here comes from importance weights" in to_html(exact, {})


def test_floors_are_flagged():
    gmm = GaussianMixture(1, (D,), "diag", floor=2.0)
    with torch.no_grad():
        gmm.model.covariance_factor.zero_()
    page = to_html(compare({"<held> up": gmm}, noise(5, D)), {})
    assert '<p class="flag">At the floor: &lt;held&gt; up.</p>' in page
    assert "<td>100.0%</td>" in page


def test_masses_have_no_floor(images):
    assert "No model here has a floor under its variances." in to_html(images, {})
