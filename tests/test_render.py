"""Pages: the report and the model card."""

from cikd_cli.render import data_uri, render


def test_a_report_escapes_names_and_carries_its_pictures(tmp_path):
    (tmp_path / "curve.png").write_bytes(b"\x89PNG")
    picture = {"title": "Loss", "src": data_uri(tmp_path / "curve.png"), "alt": "curve", "caption": "<b>both</b>"}
    values = {
        "title": "runs/<script>",
        "version": "0",
        "created": "today",
        "facts": [("data", "a & b")],
        "columns": ["", "top-1"],
        "rows": [["student", "96.0"]],
        "pictures": [picture],
        "runs": [("lm", "runs/lm-001", "ab")],
        "commands": ["cikd run"],
    }
    page = render("report.html.j2", values)
    assert "<script>" not in page
    assert "a &amp; b" in page
    assert "&lt;b&gt;both" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    assert "http:" not in page
    assert "https:" not in page


def test_a_model_card_keeps_its_table_whatever_the_class_is_called():
    student = {
        "builder": "student",
        "arguments": {"width": 192, "depth": 2, "heads": [12, 6], "patch_size": 16},
        "heads": [12, 6],
        "image_size": 224,
        "num_classes": 1,
        "classes": ["a|b"],
        "mean": [0.5],
        "std": [0.5],
    }
    data = {"name": "x|y", "split": "published", "fingerprint": "f", "train": 1, "test": 1}
    card = render(
        "model_card.md.j2",
        {
            "header": ["library_name: cikd"],
            "name": "s",
            "version": "0",
            "student": student,
            "data": data,
            "facts": [("parameters", "5.5 M")],
            "columns": ["", "top-1"],
            "rows": [["student", "96.0"], ["tea|cher", "97"]],
            "lineage": [("ali", "runs/ali-001", "ab")],
            "how": "labels",
            "config": {"lr": 0.1},
        },
    )
    assert "| student | 96.0 |\n| tea\\|cher | 97 |\n" in card
    assert "|  | top-1 |\n| --- | --- |\n" in card
    assert card.startswith("---\nlibrary_name: cikd\n---\n\n# ")
    assert "a\\|b" in card
