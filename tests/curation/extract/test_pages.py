"""The labelled pages: what is content is found, what is boilerplate is not."""

from llama3_jax.curation.extract import extract
from tests.curation.pages import Score, load_pages

LEAST_F1 = 0.97
MOST_WRONG = 3  # chunks of one page


def test_labelled_pages():
    pages = load_pages()
    assert len(pages) >= 60
    score = Score()
    wrong = {page.name: score.add(page, extract(page.html).text) for page in pages}
    assert max(map(len, wrong.values())) <= MOST_WRONG, wrong
    assert score.f1 >= LEAST_F1, {name: chunks for name, chunks in wrong.items() if chunks}


def test_every_page_has_both_kinds_of_chunks():
    for page in load_pages():
        assert page.content
        assert page.boilerplate or page.name.startswith("docs/"), page.name


def test_answers_are_content_where_they_are_what_a_page_is_for():
    comment = "<div class='comments'><p>{}</p></div>"
    article = (
        "<article><p>"
        + "A long article about rivers, floods and the people who live beside them. " * 8
        + "</p></article>"
    )
    remark = "You forgot to mention the great flood of 1954, which everybody here still remembers."
    assert remark not in extract(f"<body>{article}{comment.format(remark)}</body>").text
    assert remark in extract(f"<body><p>Old floods?</p>{comment.format(remark)}</body>").text
