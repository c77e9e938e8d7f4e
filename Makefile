# Any Node.js ≥ 20 with npm is enough: npm brings the one that the code runs on.
node := node_modules/.bin/node
PORT ?= 8080
MAIL_PORT ?= 1080
URL ?= http://127.0.0.1:$(PORT)
INBOX ?= http://127.0.0.1:$(MAIL_PORT)
# Settings and secrets of the shop that the commands below act on, one folder for each role: the demo's, unless said.
SECRETS ?= .demo/$(PORT)/secrets
as = SECRETS_DIR="$(SECRETS)/$(1)" $(node) src/commands.ts
export PORT MAIL_PORT

.DEFAULT_GOAL := help
.PHONY: help demo demo-reset tour admin import export job dlq migrate policy routes check lint format test parity sbom bench flame chaos hostile version

help: ## Show this menu
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it
demo: node_modules/.package-lock.json ## Run the whole shop here (PORT=8080 MAIL_PORT=1080); Ctrl-C stops it
	@$(node) src/demo.ts

demo-reset: node_modules/.package-lock.json ## Forget the data of the demo
	@$(node) src/demo.ts reset

# Shells may have an EMAIL of their own, which is not meant here.
email = $(if $(filter command,$(origin EMAIL)),"$(EMAIL)")
tour: node_modules/.package-lock.json ## Walk through a purchase, with each request and answer (URL= INBOX= EMAIL=)
	@$(node) src/tour.ts --url "$(URL)" --inbox "$(INBOX)" $(if $(email),--email $(email))

##@ Operate
admin: node_modules/.package-lock.json ## Make an account an admin, and the account where there is none (EMAIL=you@example.org)
	@$(call as,auth) admin $(email)

import: node_modules/.package-lock.json ## Load products from CSV or JSON lines (FILE=products.csv)
	@$(call as,products) import "$(FILE)"

export: node_modules/.package-lock.json ## Write products as CSV or JSON lines, which import takes back (FILE=products.csv)
	@$(call as,products) export "$(FILE)"

job: node_modules/.package-lock.json ## Run a scheduled job now (NAME=expire-orders)
	@$(call as,notifications) job "$(NAME)"

# A host or a cluster needs no Node.js for it.
dlq: $(if $(TARGET),,node_modules/.package-lock.json) ## Show what was given up (SHOW=7), send it once more or forget it (REPLAY=7 or all, DROP=7)
	@$(if $(TARGET),bash scripts/dlq.sh,$(call as,migrate) dlq) $(if $(SHOW),show "$(SHOW)")$(if $(REPLAY),replay "$(REPLAY)")$(if $(DROP),drop "$(DROP)")

migrate: node_modules/.package-lock.json ## Bring database and streams up to date
	@SECRETS_DIR="$(SECRETS)/migrate" $(node) src/main.ts migrate

policy: node_modules/.package-lock.json ## Show who may call which route
	@$(node) src/commands.ts policy

##@ Operate a host
.PHONY: up down logs status roll upgrade rollback backup restore e2e e2e-compose e2e-cluster
# With TARGET=cluster these would act on a shop of this machine.
host = $(if $(filter cluster,$(TARGET)),$(error make $@ is for one host. Nothing was changed. next: docs/kubernetes.md has what a cluster takes in its place))
up: ## Start the shop by Docker Compose, as .env says (make secrets first)
	@$(host)docker compose up -d --wait

down: ## Stop it; its data stay
	@$(host)docker compose down

logs: ## Follow its logs (SERVICE=orders)
	@$(host)docker compose logs --follow --tail 100 $(SERVICE)

status: ## Show versions, health, waiting events and the last backup
	@bash scripts/status.sh

roll: ## Bring what runs to new secrets, settings or images, without a failed request to a role (SERVICE=orders)
	@$(host)bash scripts/roll.sh $(SERVICE)

upgrade: ## Take the images of this checkout into the running shop
	@$(host)bash scripts/upgrade.sh

rollback: ## Go back to the images from before the upgrade
	@$(host)bash scripts/upgrade.sh back

backup: ## Put database and pictures into one file, while the shop goes on (BODEGA_BACKUPS=backups)
	@bash scripts/backup.sh

restore: ## Bring a backup into an empty shop and compare it row by row (FILE=backups/….tar)
	@ANYWAY="$(ANYWAY)" bash scripts/restore.sh "$(FILE)"

##@ Operate a cluster
.PHONY: operator deploy
operator: ## Install Crunchy PGO, for overlays/prod or the chart's pgo.enabled (PGO_DIR=, PGO_REGISTRY= without a network)
	@PGO_DIR="$(PGO_DIR)" PGO_REGISTRY="$(PGO_REGISTRY)" bash scripts/operator.sh

deploy: ## Bring an overlay into the cluster and wait until it runs (ENV=prod OVERLAY=prod-standalone NAMESPACE=bodega)
	@bash scripts/deploy.sh "$(or $(ENV),dev)" "$(or $(NAMESPACE),bodega)" "$(or $(OVERLAY),$(ENV),dev)"

##@ Carry it to where there is no network
.PHONY: bundle unbundle pin
bundle: ## One archive with all images and this checkout (ENV=prod FOLDER=.)
	@FOLDER="$(FOLDER)" bash scripts/bundle.sh "$(ENV)"

unbundle: ## Unpack it there and load its images (FILE=bodega-….tar FOLDER= REGISTRY=)
	@REGISTRY="$(REGISTRY)" sh scripts/unbundle.sh "$(FILE)" "$(FOLDER)"

pin: ## Write the digests that a registry has into every target (REGISTRY=registry.example.org/shop)
	@bash scripts/pin.sh "$(REGISTRY)"

##@ Secrets
# Without ENV: what this host runs, by .env, and dev on a new one.
.PHONY: secrets secrets-edit secrets-check secrets-rotate secrets-apply
secrets: ## Make what is missing of the secrets, and unpack them for this host (ENV=dev)
	@bash secrets/make.sh "$(ENV)"

secrets-edit: ## Change secrets in your editor (ENV=dev)
	@bash secrets/edit.sh "$(ENV)"

secrets-check: ## Prove that nothing secret is in the tree or its history
	@bash secrets/check.sh

secrets-rotate: ## Change people or values (ENV=dev WHAT=jwt; WHAT=recipients ADD=age1… NAME=asha)
	@ADD="$(ADD)" REMOVE="$(REMOVE)" NAME="$(NAME)" bash secrets/rotate.sh "$(ENV)" $(WHAT)

secrets-apply: ## Put them into the cluster and restart what mounts a changed one (ENV=prod NAMESPACE=bodega)
	@bash secrets/apply.sh "$(or $(ENV),dev)" "$(or $(NAMESPACE),bodega)"

##@ Develop
check: node_modules/.package-lock.json ## Check format, lint and types
	@npm run -s check

lint: node_modules/.package-lock.json ## Lint shell, Dockerfile, Compose files and workflows
	@bash test/lint.sh

format: node_modules/.package-lock.json ## Bring the code into its format
	@npm run -s format

test: node_modules/.package-lock.json ## Test on real parts (ARGS="test/auth/*.test.ts --match '*refresh*'")
	@npm run -s test -- $(ARGS)

e2e: parity e2e-compose e2e-cluster ## Test the shop as it ships, on a real Docker and a real Kubernetes

parity: node_modules/.package-lock.json ## Render the three targets in every form, and hold them equal (PART=orders shows its values)
	@$(node) test/packaging/table.ts $(PART)
	@COMBINATIONS=all $(node) test/run.ts --e2e 'test/packaging/@(parity|policies|kustomize|helm).test.ts'

e2e-compose: node_modules/.package-lock.json ## Test Compose: both forms, faults, scaling, rotation, backup, upgrade (ARGS=)
	@$(node) test/run.ts --e2e $(or $(ARGS),'test/e2e/!(cluster|helm|operator)*.test.ts')

e2e-cluster: node_modules/.package-lock.json ## Test on the cluster of kubectl's context (BODEGA_E2E_LOAD="kind load docker-image")
	@$(node) test/run.ts --e2e $(or $(ARGS),'test/e2e/@(cluster|helm|operator)*.test.ts')

sbom: node_modules/.package-lock.json ## Write what the application is made of, as CycloneDX (FILE=bodega.cdx.json)
	@npx --yes @cyclonedx/cyclonedx-npm@6.0.1 --omit dev --output-file "$(or $(FILE),bodega.cdx.json)"

bench: node_modules/.package-lock.json ## Measure against bare Node.js and PostgreSQL
	@$(node) bench/run.ts $(ARGS)

flame: node_modules/.package-lock.json ## Draw where the time of a product list and of an order goes (docs/flame-*.svg)
	@$(node) bench/flame.ts

chaos: node_modules/.package-lock.json ## Break each part in each way under a load of orders, and compare the ledger (ARGS="--parts nats --faults kill,freeze")
	@$(node) test/chaos/run.ts $(ARGS)

hostile: node_modules/.package-lock.json ## Try hostile input on every way in, and count the cases (ARGS="--seed 7 --times 10")
	@$(node) test/hostile/run.ts $(ARGS)

version: node_modules/.package-lock.json ## Write the version wherever it stands (V=1.4.0)
	@$(node) scripts/version.ts "$(V)"

routes: node_modules/.package-lock.json ## Write routes.conf and openapi.json from the route table
	@$(node) src/commands.ts routes

node_modules/.package-lock.json: package-lock.json
	npm ci --no-fund --no-audit
	@touch $@
