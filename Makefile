# Two commands set everything up from a clean clone; they make the virtual environment themselves.
#   make quickstart   curate pages, train a small Llama 3 on real text, evaluate it, sample from it
#   make test         the test suite (make test-slow runs the rest of it)

PYTHON ?= python3
VENV := .venv
RUN := runs/quickstart
LLAMA3 := $(VENV)/bin/llama3

.PHONY: quickstart test test-slow lint clean

quickstart: $(VENV)/installed
	$(LLAMA3) corpus --output=$(RUN)/text
	$(LLAMA3) tokenize --input=$(RUN)/text/train.jsonl --train_vocab_size=4096 \
	  --tokenizer=$(RUN)/tokenizer.model --output=$(RUN)/tokens/train
	$(LLAMA3) curate --config=configs/curate_quickstart.py
	$(LLAMA3) tokenize --input=$(RUN)/documentation/text \
	  --tokenizer=$(RUN)/tokenizer.model --output=$(RUN)/tokens/documentation
	$(LLAMA3) tokenize --input=$(RUN)/text/held_out.jsonl \
	  --tokenizer=$(RUN)/tokenizer.model --output=$(RUN)/tokens/held_out
	$(LLAMA3) pretrain --config=configs/quickstart.py
	$(LLAMA3) generate --checkpoint=$(RUN)/model --prompt="def read_lines(path):" --max_new_tokens=96
	$(LLAMA3) evaluate --checkpoint=$(RUN)/model

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest

test-slow: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -m slow

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llama3_jax needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed
