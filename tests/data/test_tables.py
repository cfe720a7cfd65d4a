"""Tables that people have: each is read right, with a line on what was read, or refused with what to do."""

import bz2
import gzip
import io
import lzma
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae.data import load
from pyrovae.data.tables import TableOptions, TableWarning, read_table

X = np.array([[1.5, -2.25, 30.0], [0.5, 4.0, 10.0], [2.5, -1.75, 20.0], [3.5, 0.25, 70.0], [1.0, 7.5, 20.0]])
NAMES = ("a", "b", "c")
PLAIN = pd.DataFrame(X, columns=list(NAMES))


def text(sep=",", decimal=".", header=True, frame=PLAIN, **options):
    return frame.to_csv(sep=sep, decimal=decimal, header=header, index=False, **options)


def packed(suffix, content=None):
    raw = (content or text()).encode()
    if suffix == ".zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("t.csv", raw)
        return stream.getvalue()
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](raw)


def beside(name, values):
    return text(frame=PLAIN.assign(**{name: values}))


READ = {  # what a file holds → its suffix, its bytes or text, names if they are others, and what its line says
    "commas": (".csv", text(), NAMES, "5 rows, 3 columns: 'a', 'b', 'c'"),
    "semicolons": (".csv", text(";"), NAMES, ""),
    "semicolons and decimal commas": (".csv", text(";", ","), NAMES, ""),
    "tabs": (".tsv", text("\t"), NAMES, ""),
    "tabs in a .txt, decimal commas": (".txt", text("\t", ","), NAMES, ""),
    "bars": (".csv", text("|"), NAMES, ""),
    "blanks": (".txt", text(" "), NAMES, ""),
    "many blanks": (".dat", text(" ").replace(" ", "    "), NAMES, ""),
    "commas and blanks": (".csv", text().replace(",", ", "), NAMES, ""),
    "everything quoted": (".csv", text(quoting=1), NAMES, ""),
    "quoted decimal commas": (".csv", text(decimal=",", quoting=1), NAMES, ""),
    "gzip": (".csv.gz", packed(".gz"), NAMES, ""),
    "bzip2": (".csv.bz2", packed(".bz2"), NAMES, ""),
    "xz": (".csv.xz", packed(".xz"), NAMES, ""),
    "zip": (".csv.zip", packed(".zip"), NAMES, ""),
    "byte order mark": (".csv", b"\xef\xbb\xbf" + text().encode(), NAMES, ""),
    "UTF-16 of Excel": (".txt", text("\t").encode("utf-16"), NAMES, ""),
    "latin-1 names": (".csv", text().replace("a,", "größe,").encode("latin-1"), ("größe", "b", "c"), "cp1252"),
    "Greek names": (".csv", text().replace("a,", "σ,"), ("σ", "b", "c"), ""),
    "line ends of Windows": (".csv", text().replace("\n", "\r\n"), NAMES, ""),
    "line ends of old Macs": (".csv", text().replace("\n", "\r"), NAMES, ""),
    "blank lines": (".csv", "\n" + text().replace("\n", "\n\n"), NAMES, ""),
    "no last line end": (".csv", text().rstrip("\n"), NAMES, ""),
    "sep= of Excel": (".csv", "sep=;\n" + text(";", ","), NAMES, ""),
    "comments": (".csv", "# made by hand\n# twice\n" + text(), NAMES, "2 lines of comments left out"),
    "header of numpy.savetxt": (".txt", "# a b c\n" + text(" ", header=False), NAMES, ""),
    "no header": (".csv", text(header=False), ("column 1", "column 2", "column 3"), "no header"),
    "years for names": (".csv", text(header=["2019", "2020", "2021"]), ("2019", "2020", "2021"), "'2019', '2020'"),
    "years over whole numbers": (
        ".csv",
        "2019,2020,2021\n" + text(header=False),
        ("2019", "2020", "2021"),
        "",
    ),
    "numbers for names, of pandas": (".csv", text(header=["0", "1", "2"]), ("0", "1", "2"), ""),
    "index of pandas": (".csv", PLAIN.to_csv(), NAMES, "left out: 'column 1' (a count of the rows)"),
    "index of pandas, written twice": (
        ".csv",
        pd.read_csv(io.StringIO(PLAIN.to_csv())).to_csv(index=False),
        NAMES,
        "left out: 'Unnamed: 0' (a count of the rows)",
    ),
    "names of rows of R": (
        ".csv",
        '"a" "b" "c"\n' + "\n".join(f'"{n + 1}" {row}' for n, row in enumerate(text(" ", header=False).splitlines())),
        NAMES,
        "left out: 'column 1' (a count of the rows)",
    ),
    "ids that are words": (".csv", beside("id", [f"P{n:04}" for n in range(5)]), NAMES, "left out: 'id' (words)"),
    "dates": (".csv", beside("day", [f"2024-01-0{n}" for n in range(1, 6)]), NAMES, "left out: 'day' (dates)"),
    "words": (".csv", beside("who", ["x", "y", "x", "z", "y"]), NAMES, "left out: 'who' (words)"),
    "an empty column": (".csv", beside("none", [""] * 5), NAMES, "left out: 'none' (empty)"),
    "a separator at the end of lines": (".csv", text().replace("\n", ",\n"), NAMES, "left out: 'column 4' (empty)"),
    "a second line of units": (".csv", text().replace("\n", "\ncm,kg,s\n", 1), NAMES, "second line of the header"),
    "names that are there twice": (".csv", text().replace("a,b", "a,a"), ("a", "a.1", "c"), "more than one column"),
    "thousands": (".csv", text(quoting=1).replace('"30.0"', '"1,030.5"'), NAMES, ""),
    "a minus sign of typographers": (".csv", text().replace("-", "\u2212"), NAMES, ""),
    "scientific": (".csv", text(float_format="%.5e"), NAMES, ""),
    "a name in quotation marks with a separator": (
        ".csv",
        text().replace("a,", '"a, in cm",'),
        ("a, in cm", "b", "c"),
        "",
    ),
    "coordinates x and y": (
        ".csv",
        text(frame=PLAIN.set_axis(["x", "y", "z"], axis=1)),
        ("x", "y", "z"),
        "'y' is taken for a feature",
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_it_is_read_right(tmp_path, kind):
    suffix, content, names, said = READ[kind]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_table(path)
    expected = X.copy()
    if kind == "thousands":
        expected[0, 2] = 1030.5
    np.testing.assert_array_equal(table.x, expected)
    assert table.names == names
    assert said in table.about
    assert table.labels is None
    assert table.rows.tolist() == [1, 2, 3, 4, 5]
    for name in table.names:
        assert name in table.about


REFUSED = {
    "a comma that may be two things": (
        text(";").replace("-2.25", "-2,250").replace("4.0", "4,000"),
        "decimal comma or",
    ),
    "a decimal comma between commas": ("a\n1,5\n2,5\n3,5\n", "1 for rows of 2 cells in .* may hold a decimal comma"),
    "one in the second column": ("a,b\n1,2,5\n2,3,5\n", "2 for rows of 3 cells in .* may hold a decimal comma"),
    "names between semicolons": ("a;b\n1,2\n3,4\n", "1 for rows of 2 cells"),
    "a per cent sign": (text().replace("30.0", "30%"), r"got '30%' in row 1 of 'c'"),
    "currency": (text().replace("30.0", "$30"), r"got '\$30' in row 1 of 'c'"),
    "a unit": (text().replace("30.0", "30 kg"), "got '30 kg' in row 1 of 'c'"),
    "a word among numbers": (text().replace("30.0", "hello"), "got 'hello' in row 1 of 'c'"),
    "a row too short": (text() + "1.0,2.0\n", "got 2 cells in line 7"),
    "a row too long": (text() + "1.0,2.0,3.0,4.0\n", "rows of one length"),
    "a last row of sums": (beside("id", list("pqrst")) + "9.0,7.75,150.0,Total\n", "looks like a sum"),
    "an empty file": ("", "an empty file"),
    "a header alone": ("a,b,c\n", "none|no.* numbers"),
    "words alone": ("a,b\nx,y\nz,w\n", "a column of numbers, got none"),
    "infinity": (text().replace("30.0", "inf"), "finite numbers, got inf in row 1 of 'c'"),
    "a missing cell": (text().replace("30.0", ""), "lacks values in 1 of 5 rows: c \\(1\\); 'nan' keeps"),
    "NA": (text().replace("30.0", "NA"), "lacks values in 1 of 5"),
    "a question mark": (text().replace("30.0", "?"), "lacks values in 1 of 5"),
    "an error of Excel": (text().replace("30.0", "#DIV/0!"), "lacks values in 1 of 5"),
    "zero bytes": (text().replace("30.0", "\0"), "zero bytes"),
    "two columns of labels": (
        text(frame=PLAIN.assign(label=list("ababa"), target=list("babab"))),
        "`label` must be given where several",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_with_what_to_do(tmp_path, kind):
    content, said = REFUSED[kind]
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zip"])
def test_a_file_cut_off_is_refused(tmp_path, suffix):
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(packed(suffix)[:-15])
    with pytest.raises(ValueError, match="must lead to a whole file"):
        read_table(path)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"k": [2.0] * 5}, "'k' is constant"),
        ({"k": [0, 1, 1, 0, 1]}, "'k' holds zeros and ones alone"),
        ({"k": ["TRUE", "FALSE", "TRUE", "TRUE", "FALSE"]}, "'k' holds zeros and ones alone"),
        ({"patient_id": [7, 3, 9, 1, 4]}, "'patient_id' looks like an id"),
        ({"k": [0.5, -999, 0.7, 0.2, 0.1]}, "'k' may hold -999 for missing values"),
    ],
)
def test_doubtful_columns_are_kept_with_a_warning(tmp_path, column, said):
    PLAIN.assign(**column).to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(TableWarning, match=said):
        table = read_table(tmp_path / "t.csv")
    assert table.names == (*NAMES, *column)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_table(tmp_path / "t.csv", TableOptions(drop=tuple(column))).names == NAMES


def test_whole_numbers_that_increase_look_like_an_id(tmp_path):
    frame = pd.concat([PLAIN] * 3).assign(k=np.arange(15) ** 2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(TableWarning, match="'k' looks like an id"):
        read_table(tmp_path / "t.csv")


def test_zeros_and_ones_throughout_are_pointed_to_their_mass(tmp_path):
    pd.DataFrame(np.eye(6, dtype=int)[:, :4]).add_prefix("q").to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(TableWarning, match="take observations='binary'"):
        load(tmp_path / "t.csv")


def test_labels_are_a_few_classes_that_are_called_so_or_named(tmp_path):
    frame = pd.concat([PLAIN] * 4).assign(target=["u", "v"] * 10, grade=[1, 2, 3, 4] * 5)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv")
    assert table.names == (*NAMES, "grade")
    assert table.labels.tolist() == ["u", "v"] * 10
    assert "labels from 'target'" in table.about
    other = read_table(tmp_path / "t.csv", TableOptions(label="grade"))
    assert other.names == NAMES
    assert other.labels.tolist() == [1, 2, 3, 4] * 5
    assert "left out: 'target' (words)" in other.about
    with pytest.raises(ValueError, match=r"`label` must name columns of 't\.csv', got 'nothing'; there are 'a', 'b'"):
        read_table(tmp_path / "t.csv", TableOptions(label="nothing"))


def test_missing_cells_are_kept_or_dropped_as_asked(tmp_path):
    (tmp_path / "t.csv").write_text(text().replace("30.0", "NA").replace("7.5", "?"))
    kept = read_table(tmp_path / "t.csv", TableOptions(missing="nan"))
    assert np.argwhere(np.isnan(kept.x)).tolist() == [[0, 2], [4, 1]]
    assert "2 missing values kept, in b (1), c (1)" in kept.about
    dropped = read_table(tmp_path / "t.csv", TableOptions(missing="drop"))
    np.testing.assert_array_equal(dropped.x, X[1:4])
    assert dropped.rows.tolist() == [2, 3, 4]
    assert "2 rows with missing values dropped" in dropped.about


def test_the_numbers_of_a_table_are_kept_in_double_precision_and_rows_are_known(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"mass": rng.normal(1e8, 1, 600), "time": 1.7e9 + rng.uniform(0, 1e4, 600)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    d = load(tmp_path / "t.csv")
    assert d.train.x.dtype == torch.float64
    for part in d:
        np.testing.assert_array_equal(part.x.numpy(), frame.to_numpy()[part.rows.numpy() - 1])
        assert part.names == ("mass", "time")
    assert d.about.startswith("600 rows, 2 columns: 'mass', 'time'")


def test_standardised_columns_with_holes_have_mean_zero_and_variance_one(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (100, 2))
    x[np.random.default_rng(1).uniform(size=x.shape) < 0.1] = np.nan
    pd.DataFrame(x, columns=["a", "b"]).to_csv(tmp_path / "t.csv", index=False)
    d = load(tmp_path / "t.csv", missing="nan", transform="standardize")
    torch.testing.assert_close(d.train.x.nanmean(0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(d.train.x.square().nanmean(0), torch.ones(2, dtype=torch.float64))


def test_many_columns_are_read_at_once(tmp_path):
    pd.DataFrame(np.arange(60_000).reshape(6, -1) + 0.5).add_prefix("g").to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv")
    assert table.x.shape == (6, 10_000)
    assert "… and 9,994 more" in table.about


def test_options_of_tables_are_refused_for_others(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"`label`, `drop` and `missing` must be left out for 'x\.npy'"):
        load(tmp_path / "x.npy", label="a")
    with pytest.raises(ValueError, match="`label`, `drop` and `missing` must be left out for 'digits'"):
        load("digits", drop=["a"])
    with pytest.raises(TypeError, match=r"`drop` must be a list of names of columns, got 'a'; write \['a'\]"):
        load(tmp_path / "x.npy", drop="a")
