# Everything a developer runs. Tools are built from tools/go.mod into bin/.

GO ?= go
TOOLS := -C tools build -mod=mod -o $(CURDIR)/bin/

.PHONY: build test check lint cross man race fuzz generate web web-check pictures bench bench-connect bench-inspect bench-yamux bench-http vulncheck fault soak chart clean

build: ## the binary, in bin/
	$(GO) build -trimpath -o bin/culvert ./cmd/culvert

# Never from the cache: it does not know of what subprocesses read, the end-to-end
# tests' binary among it.
test: ## install what tests need, run them all
	./test/install-deps
	$(GO) test -count=1 -timeout 20m ./...

check: lint cross chart race fuzz fault web-check vulncheck ## what CI runs besides make test

lint: bin/golangci-lint
	$(GO) vet ./...
	bin/golangci-lint run --allow-serial-runners ./...
	shellcheck test/install-deps test/fuzz-smoke test/web-check test/pictures .ci/run

CROSS := linux/amd64 linux/arm64 linux/arm darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

cross: ## the binary, for every system it is for, without cgo
	@for target in $(CROSS); do \
		echo "$$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build -trimpath -o /dev/null ./cmd/culvert || exit 1; \
	done

race: ## the tests, end-to-end ones among them, under the race detector
	CULVERT_TEST_RACE=1 $(GO) test -race -count=1 -timeout 20m ./...

fuzz: ## every fuzz target for a moment
	./test/fuzz-smoke

fault: ## what can break breaks under traffic, some minutes; root, for network namespaces
	$(GO) test -count=1 -timeout 15m ./test/fault -cuts 100 -kills 50 -upgrades 10 -agents 2000 -outage 60s -total 1073741824 -soak 2m -clocks

soak: ## the same for an hour
	$(GO) test -count=1 -timeout 80m ./test/fault -run 'TestCuts|TestSoak|TestClocks' -clocks -cuts 100 -total 2147483648 -soak 1h -v

vulncheck: bin/govulncheck ## known vulnerabilities, where their database is reachable
	@timeout 60 bin/govulncheck ./... || { \
		status=$$?; [ $$status -eq 3 ] && exit 3; \
		echo "govulncheck skipped: its database can't be reached"; }

man: build ## manual pages, in man/
	bin/culvert man man

generate: bin/protoc-gen-go ## Go code of the wire messages; needs protoc
	PATH="$(CURDIR)/bin:$$PATH" protoc --go_out=. --go_opt=paths=source_relative internal/tunnel/tunnel.proto

web: web/inspector/node_modules ## the inspector's page, anew from its sources; needs Node
	cd web/inspector && npm run build

web-check: ## whether the built page is what its sources make, where there is Node
	./test/web-check

web/inspector/node_modules: web/inspector/package-lock.json
	cd web/inspector && npm ci --no-audit --no-fund
	touch $@

pictures: ## pictures of inspector and terminal, into docs/ and pictures/; Chromium, tmux, root
	test/pictures "$(CURDIR)/pictures"
	cp pictures/inspector.png pictures/terminal.svg docs/

bench: ## Culvert beside what is here of its rivals and of the limits
	$(GO) run ./bench

bench-connect: ## how long an agent takes to be of use
	$(GO) test -run '^$$' -bench Connect -benchtime 100x ./bench/connect

bench-inspect: ## what the inspector costs; needs wrk
	$(GO) run ./bench --inspector --rivals none --work 'HTTP 1 KiB, 64 kept'

bench-yamux: ## package yamux against the libraries and against its targets; root, for slow lines
	$(GO) run ./bench/yamux
	$(GO) test -run "^$$" -bench Idle -benchtime 1x ./bench/yamux

bench-http: ## HTTP beside two nginx and frp, as far as they are on PATH; needs wrk and h2load
	$(GO) run ./bench --work HTTP --rivals 'nginx|frp$$$$'

# Too large for tools/go.mod: all of Kubernetes' client comes with it.
bin/helm:
	GOBIN=$(CURDIR)/bin $(GO) install helm.sh/helm/v3/cmd/helm@v3.21.4

chart: bin/helm ## lint the Helm chart, and look at what it renders
	$(GO) test -count=1 -run TestChart -v ./test/e2e

bin/golangci-lint: tools/go.mod
	$(GO) $(TOOLS) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/govulncheck: tools/go.mod
	$(GO) $(TOOLS) golang.org/x/vuln/cmd/govulncheck

bin/protoc-gen-go: tools/go.mod
	$(GO) $(TOOLS) google.golang.org/protobuf/cmd/protoc-gen-go

clean:
	rm -rf bin
